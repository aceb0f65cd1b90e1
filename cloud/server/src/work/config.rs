//! The settings of a training: those that were asked for, and the defaults of what is trained on such data.

use flotilla_data::Kind;
use flotilla_protocol::ErrorCode;
use flotilla_train::{Algorithm, Augment, Config};
use serde_json::Value;

/// The settings for data of a kind, with what was asked for. The error says what of it is not possible.
pub(crate) fn config(kind: Kind, asked: Value) -> Result<Config, (ErrorCode, String)> {
    let invalid = |problem: String| (ErrorCode::InvalidInput, format!("config: {problem}"));
    let asked = match asked {
        Value::Null => serde_json::Map::new(),
        Value::Object(asked) => asked,
        _ => return Err(invalid("it is no JSON object".into())),
    };
    let rows = kind == Kind::Table;
    let algorithm = match asked.get("algorithm") {
        Some(name) => serde_json::from_value(name.clone()).map_err(|e| invalid(format!("algorithm: {e}")))?,
        None if rows => Algorithm::Mlp,
        None => Algorithm::default(),
    };
    if algorithm.takes_rows() != rows {
        let (name, what) = (algorithm.name(), kind.as_str());
        let fits = if rows { "mlp" } else { "dscnn-s, dscnn-m, cnn-s or resnet-8" };
        return Err(invalid(format!("{name} does not take {what} data: leave it out, or choose {fits}")));
    }
    let mut defaults = Config::of(algorithm);
    if kind == Kind::SoundClassification {
        // Time and frequency are no directions in which a sound can be turned.
        defaults.augment = Augment { noise: 0.2, ..Augment::none() };
    }
    let defaults = serde_json::to_value(defaults).map_err(|e| invalid(e.to_string()))?;
    let Value::Object(mut merged) = defaults else { return Err(invalid("it is no JSON object".into())) };
    merged.extend(asked);
    let config: Config = serde_json::from_value(Value::Object(merged)).map_err(|e| invalid(e.to_string()))?;
    config.validate().map_err(|e| (e.code(), format!("config: {e}")))?;
    Ok(config)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_kind_of_data_has_its_algorithm_and_what_is_asked_for_counts() {
        let of = |kind, asked| config(kind, asked).unwrap();
        assert_eq!(of(Kind::ImageClassification, Value::Null), Config::default());
        assert_eq!(of(Kind::Table, json!({})), Config::of(Algorithm::Mlp));
        let own = of(Kind::Table, json!({ "epochs": 7, "loss": "huber", "hidden": [5] }));
        assert_eq!((own.algorithm, own.epochs, own.hidden), (Algorithm::Mlp, 7, vec![5]));
        let sound = of(Kind::SoundClassification, json!({ "algorithm": "dscnn-m" }));
        assert_eq!((sound.algorithm, sound.augment.rotate_deg), (Algorithm::DscnnM, 0.0));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_named() {
        let why = |kind, asked| config(kind, asked).unwrap_err().1;
        assert!(why(Kind::Table, json!({ "algorithm": "dscnn-s" })).contains("choose mlp"));
        assert!(why(Kind::ImageClassification, json!({ "algorithm": "mlp" })).contains("dscnn-s"));
        assert!(why(Kind::Table, json!({ "epoch": 3 })).contains("epoch"));
        assert!(why(Kind::Table, json!({ "epochs": 0 })).contains("from 1 to 10000"));
        assert!(why(Kind::Table, json!([1])).contains("no JSON object"));
    }
}
