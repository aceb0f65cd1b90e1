//! Enums of newer versions: a variant that this build does not know becomes the one marked `#[serde(other)]`, whatever
//! content it carries. serde's own code accepts an unknown variant only without content.

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, IntoDeserializer, MapAccess, VariantAccess,
    Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};
use std::fmt;
use std::marker::PhantomData;

/// For `#[serde(deserialize_with = "…")]` on a field whose type is an externally tagged enum.
pub(super) fn enumeration<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_any(Tagged(PhantomData))
}

/// A variant without content is a text, one with content a map of one entry.
struct Tagged<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Tagged<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a variant, or a map from its name to its content")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<T, E> {
        T::deserialize(name.into_deserializer())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let name: String = map.next_key()?.ok_or_else(|| A::Error::custom("no variant is named"))?;
        T::deserialize(Variant { name, map })
    }
}

/// The one entry of such a map, its key read already.
struct Variant<A> {
    name: String,
    map: A,
}

impl<'de, A: MapAccess<'de>> Deserializer<'de> for Variant<A> {
    type Error = A::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, A::Error> {
        visitor.visit_enum(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de, A: MapAccess<'de>> EnumAccess<'de> for Variant<A> {
    type Error = A::Error;
    type Variant = Content<A>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Content<A>), A::Error> {
        let name = seed.deserialize(self.name.into_deserializer())?;
        Ok((name, Content(self.map)))
    }
}

struct Content<A>(A);

impl<'de, A: MapAccess<'de>> VariantAccess<'de> for Content<A> {
    type Error = A::Error;

    fn unit_variant(mut self) -> Result<(), A::Error> {
        self.0.next_value::<IgnoredAny>().map(drop)
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(seed)
    }

    fn tuple_variant<V: Visitor<'de>>(mut self, _: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.0.next_value_seed(Fields(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        mut self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.0.next_value_seed(Fields(visitor))
    }
}

/// The content of a variant with several fields.
struct Fields<V>(V);

impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for Fields<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        deserializer.deserialize_any(self.0)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use crate::codec;
    use crate::message::{Command, CommandKind, Request, RequestBody};
    use serde::Serialize;
    use std::collections::BTreeMap;

    #[derive(Serialize)]
    struct Newer<T> {
        id: u64,
        #[serde(rename = "kind", skip_serializing_if = "Option::is_none")]
        kind: Option<T>,
        #[serde(rename = "body", skip_serializing_if = "Option::is_none")]
        body: Option<T>,
    }

    #[test]
    fn a_newer_variant_with_any_content_is_unknown_and_the_rest_is_read() {
        let fields = BTreeMap::from([("since_ms", vec![1, 2, 3])]);
        let contents = [BTreeMap::from([("pull_log", fields)]), BTreeMap::from([("x", BTreeMap::new())])];
        for content in contents {
            let command = Newer { id: 7, kind: Some(content.clone()), body: None };
            let command: Command = codec::decode(&codec::encode(&command), 1024).unwrap();
            assert_eq!(command, Command { id: 7, kind: CommandKind::Unknown, deadline_ms: None });
            let request = Newer { id: 8, kind: None, body: Some(content) };
            let request: Request = codec::decode(&codec::encode(&request), 1024).unwrap();
            assert_eq!(request, Request { id: 8, body: RequestBody::Unknown });
        }
    }

    #[test]
    fn known_variants_keep_their_content() {
        let model = "digits".parse().unwrap();
        for kind in [CommandKind::Ping, CommandKind::RestartModel { model }] {
            let command = Command { id: 1, kind, deadline_ms: None };
            assert_eq!(codec::decode::<Command>(&codec::encode(&command), 1024).unwrap(), command);
            let text = serde_json::to_vec(&command).unwrap();
            assert_eq!(serde_json::from_slice::<Command>(&text).unwrap(), command);
        }
    }
}
