//! Sizes and numbers that no model has.

use anyhow::{Result, bail};

/// Refuses sizes that no model has, before anything is allocated by them.
pub fn check_sizes(sizes: &[(&str, usize)]) -> Result<()> {
    let most = |name: &str| match name {
        "num_hidden_layers" => 1 << 13,
        "num_attention_heads" | "num_key_value_heads" | "head_dim" => 1 << 16,
        "hidden_size" | "word_embed_proj_dim" => 1 << 20,
        _ => 1 << 24,
    };
    match sizes.iter().find(|(name, size)| *size == 0 || *size > most(name)) {
        Some((name, size)) => bail!("config.json: {name} is {size}; it must be from 1 to {}", most(name)),
        None => Ok(()),
    }
}

/// Refuses numbers of a config.json that are not above 0, or are none in f32.
pub fn check_positive(numbers: &[(&str, Option<f64>)]) -> Result<()> {
    let is_positive = |x: f64| x > 0.0 && (x as f32).is_normal();
    match numbers.iter().find_map(|(name, x)| Some((name, x.filter(|x| !is_positive(*x))?))) {
        Some((name, x)) => bail!("config.json: {name} is {x}, which is not supported; it must be a number above 0"),
        None => Ok(()),
    }
}
