//! Bounds on tokenizer.json that the tokenizers crate does not enforce: steps that panic, or expand a text without
//! limit.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};
use tokenizers::utils::SysRegex;

use crate::base::text::quoted;

/// The largest expansion of a text by all steps together; SentencePiece makes a space three bytes.
const MOST_GROWTH: usize = 1000;

/// The most steps, including those in sequences.
const MOST_STEPS: usize = 100;

/// The longest pattern in bytes; a regex parser recurses with its nesting.
const LONGEST_PATTERN: usize = 4096;

/// The steps so far, and the product of their expansions.
struct StepBounds {
    steps: usize,
    growth: usize,
}

/// Refuses what would panic or not terminate.
pub fn check(fields: &Map<String, Value>) -> Result<()> {
    let mut seen = StepBounds { steps: 0, growth: 1 };
    for part in ["normalizer", "pre_tokenizer", "post_processor"] {
        if let Some(step) = fields.get(part) {
            seen.step(step).with_context(|| part.to_string())?;
        }
    }
    fields.get("model").map_or(Ok(()), model)
}

fn text<'a>(step: &'a Value, field: &str) -> &'a str {
    step.get(field).and_then(Value::as_str).unwrap_or_default()
}

impl StepBounds {
    fn step(&mut self, step: &Value) -> Result<()> {
        let kind = text(step, "type");
        self.steps += 1;
        if self.steps > MOST_STEPS {
            bail!("there are more than {MOST_STEPS} steps");
        }
        let growth = match kind {
            "Replace" => {
                let from = pattern(step)?;
                let to = text(step, "content").len();
                // A regex may match a single byte.
                to.div_ceil(if from.is_regex { 1 } else { from.text.len().max(1) })
            }
            "Split" => pattern(step).map(|_| 1)?,
            // Bytes that are not printable become two.
            "ByteLevel" | "BertNormalizer" => 2,
            "Prepend" if text(step, "prepend").len() > LONGEST_PATTERN => bail!("Prepend: prepend is too long"),
            "FixedLength" if step.get("length").and_then(Value::as_u64) == Some(0) => {
                bail!("FixedLength: length is 0; it must be above 0")
            }
            _ => 1,
        };
        self.growth = self.growth.saturating_mul(growth.max(1));
        if self.growth > MOST_GROWTH {
            bail!("the steps up to a {kind} make a text more than {MOST_GROWTH} times longer, which no tokenizer does");
        }
        let inner = ["normalizers", "pretokenizers", "processors"].into_iter().filter_map(|name| step.get(name)?.as_array());
        inner.flatten().try_for_each(|step| self.step(step))
    }
}

/// The pattern of a step.
struct Pattern<'a> {
    text: &'a str,
    is_regex: bool,
}

fn pattern(step: &Value) -> Result<Pattern<'_>> {
    let kind = text(step, "type");
    let Some(pattern) = step.get("pattern") else { return Ok(Pattern { text: "", is_regex: true }) };
    let is_regex = pattern.get("Regex").is_some();
    let said = text(pattern, if is_regex { "Regex" } else { "String" });
    if said.is_empty() {
        bail!("{kind}: its pattern is empty and matches everywhere; remove the step");
    }
    if said.len() > LONGEST_PATTERN {
        bail!("{kind}: its pattern is {} bytes long; the maximum is {LONGEST_PATTERN}", said.len());
    }
    // Replacing an empty match does not terminate.
    if is_regex && kind == "Replace" {
        let regex =
            SysRegex::new(said).map_err(|e| anyhow::anyhow!("{kind}: its pattern {} is not valid: {e}", quoted(said)))?;
        if ["", "a", " "].iter().any(|text| regex.find_iter(text).any(|(start, end)| start == end)) {
            bail!("{kind}: its pattern {} matches an empty text, which is not supported", quoted(said));
        }
    }
    Ok(Pattern { text: said, is_regex })
}

/// The crate cuts `continuing_subword_prefix` off the second half of each merge without checking its length.
fn model(model: &Value) -> Result<()> {
    let prefix = text(model, "continuing_subword_prefix").len();
    let Some(merges) = model.get("merges").and_then(Value::as_array).filter(|_| prefix > 0) else { return Ok(()) };
    for merge in merges {
        let second = match merge {
            Value::String(pair) => pair.split_once(' ').map_or("", |(_, second)| second),
            Value::Array(pair) => pair.get(1).and_then(Value::as_str).unwrap_or_default(),
            _ => "",
        };
        if second.get(prefix..).is_none() {
            bail!(
                "model: the merge {} has a second half without continuing_subword_prefix {}",
                quoted(&merge.to_string()),
                quoted(text(model, "continuing_subword_prefix"))
            );
        }
    }
    Ok(())
}
