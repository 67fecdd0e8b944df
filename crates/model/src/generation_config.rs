//! `generation_config.json`: what Hugging Face's library needs to know to generate text.

use std::path::Path;

use crate::{Error, OpenElmConfig};

/// File name within a model folder.
pub const GENERATION_CONFIG_FILE: &str = "generation_config.json";

/// Writes `generation_config.json` into `folder`: the special tokens and the longest text.
///
/// # Errors
/// [`Error::Write`].
pub fn save(folder: impl AsRef<Path>, config: &OpenElmConfig) -> Result<(), Error> {
    let json = format!(
        "{{\n  \"bos_token_id\": {},\n  \"eos_token_id\": {},\n  \"max_length\": {},\n  \"pad_token_id\": {}\n}}\n",
        config.bos_token_id(),
        config.eos_token_id(),
        config.max_context_length(),
        config.eos_token_id(),
    );
    Ok(elmwood_durable::write_file(folder.as_ref().join(GENERATION_CONFIG_FILE), json.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_the_numbers_of_the_model() {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), &OpenElmConfig::openelm_270m()).unwrap();
        let text = std::fs::read_to_string(folder.path().join(GENERATION_CONFIG_FILE)).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let expected =
            serde_json::json!({"bos_token_id": 1, "eos_token_id": 2, "max_length": 2048, "pad_token_id": 2});
        assert_eq!(json, expected);
    }
}
