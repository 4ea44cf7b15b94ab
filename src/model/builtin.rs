//! The built-in model.

use crate::base::Source;

/// The built-in model: an OPT with 2.6 M parameters, pretrained on film reviews.
pub const OPT_MINI: Source = Source::Builtin(&[
    ("config.json", include_bytes!("opt-mini/config.json")),
    ("model.safetensors", include_bytes!("opt-mini/model.safetensors")),
    ("vocab.json", include_bytes!("opt-mini/vocab.json")),
    ("merges.txt", include_bytes!("opt-mini/merges.txt")),
    ("tokenizer_config.json", include_bytes!("opt-mini/tokenizer_config.json")),
    ("special_tokens_map.json", include_bytes!("opt-mini/special_tokens_map.json")),
]);
