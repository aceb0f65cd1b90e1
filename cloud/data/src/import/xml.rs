//! As much XML as files of boxes have: elements and their texts. Attributes, comments and declarations are passed over;
//! nothing is fetched, and no entity but the five of XML and characters by number is known.

/// Elements within elements.
const DEPTH: usize = 32;

/// An element.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Element {
    pub(super) name: String,
    /// Its own text, without spaces around it.
    text: String,
    children: Vec<Element>,
}

impl Element {
    /// Its children of this name.
    pub(super) fn children<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// Its first child of this name.
    pub(super) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of its first child of this name, unless it is empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.as_str()).filter(|text| !text.is_empty())
    }
}

/// Reads a document. The error says what is wrong with it.
pub(super) fn read(document: &str) -> Result<Element, String> {
    let mut rest = document.trim_start_matches('\u{feff}');
    let mut open: Vec<Element> = Vec::new();
    while let Some(start) = rest.find('<') {
        if let Some(element) = open.last_mut() {
            element.text.push_str(&unescaped(&rest[..start])?);
        }
        rest = &rest[start..];
        let (skipped, end) = if rest.starts_with("<!--") {
            (true, "-->")
        } else if rest.starts_with("<![CDATA[") {
            (true, "]]>")
        } else if rest.starts_with("<?") {
            (true, "?>")
        } else {
            (rest.starts_with("<!"), ">")
        };
        let length = rest.find(end).ok_or("a tag is not closed")?;
        let (tag, behind) = (&rest[1..length], &rest[length + end.len()..]);
        rest = behind;
        if skipped {
            if let (Some(text), Some(element)) = (tag.strip_prefix("![CDATA["), open.last_mut()) {
                element.text.push_str(text);
            }
            continue;
        }
        if let Some(name) = tag.strip_prefix('/') {
            let mut closed = open.pop().filter(|element| element.name == name.trim());
            let closed = closed.as_mut().ok_or_else(|| format!("</{name}> closes what is not open"))?;
            let element = std::mem::take(closed);
            match finished(element, &mut open) {
                Some(root) => return Ok(root),
                None => continue,
            }
        }
        let name = tag.trim_end_matches('/').split_whitespace().next().unwrap_or_default().to_owned();
        if open.len() == DEPTH {
            return Err(format!("<{name}> is more than {DEPTH} elements deep"));
        }
        let element = Element { name, ..Element::default() };
        if !tag.ends_with('/') {
            open.push(element);
        } else if let Some(root) = finished(element, &mut open) {
            return Ok(root);
        }
    }
    match open.last() {
        Some(element) => Err(format!("<{}> is not closed", element.name)),
        None => Err("it has no element".to_owned()),
    }
}

/// Hangs a whole element into the one that holds it; gives it back if none does.
fn finished(mut element: Element, open: &mut [Element]) -> Option<Element> {
    element.text = element.text.trim().to_owned();
    match open.last_mut() {
        None => Some(element),
        Some(parent) => {
            parent.children.push(element);
            None
        }
    }
}

fn unescaped(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        out.push_str(&rest[..start]);
        let end = rest[start..].find(';').ok_or("an & stands for nothing; write &amp;")?;
        let entity = &rest[start + 1..start + end];
        let number = |digits: &str, radix| u32::from_str_radix(digits, radix).ok().and_then(char::from_u32);
        let character = match entity {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            _ => match (entity.strip_prefix("#x"), entity.strip_prefix('#')) {
                (Some(hex), _) => number(hex, 16),
                (None, Some(decimal)) => number(decimal, 10),
                (None, None) => None,
            },
        };
        out.push(character.ok_or_else(|| format!("&{entity}; is not known"))?);
        rest = &rest[start + end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[<>/a&;!?\\[\\]CDAT\\- \"=#x1-9]{0,80}") {
            let _read_or_refused = read(&text);
        }
    }

    #[test]
    fn texts_are_kept_and_the_rest_is_passed_over() {
        let root =
            read("<!DOCTYPE a><a x='1'><b>1 &lt; &#50;</b><!-- <b>9</b> --><b/><c><![CDATA[<&]]></c></a>");
        let root = root.unwrap_or_default();
        assert_eq!(
            (root.text("b"), root.text("c"), root.children("b").count()),
            (Some("1 < 2"), Some("<&"), 2)
        );
    }
}
