//! Bounds on the numbers of config.json.

use anyhow::{Result, bail};

/// Fails if a size is 0 or larger than any model's; called before memory is allocated by it.
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

/// Fails if a number is not positive, or not a normal f32.
pub fn check_positive(numbers: &[(&str, Option<f64>)]) -> Result<()> {
    let is_positive = |x: f64| x > 0.0 && (x as f32).is_normal();
    match numbers.iter().find_map(|(name, x)| Some((name, x.filter(|x| !is_positive(*x))?))) {
        Some((name, x)) => bail!("config.json: {name} is {x}, which is not supported; it must be a number above 0"),
        None => Ok(()),
    }
}
