//! What several tests need.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use zotune::base::{Digest, Source};
use zotune::data::{Candidate, Example};
use zotune::direction::Term;
use zotune::model::Model;
use zotune::params::{Params, Points, Weights};
use zotune::zo::StepContext;

/// All fixture models.
pub const FIXTURES: [&str; 11] = [
    "opt-tiny",
    "opt-350m-tiny",
    "opt-untied-tiny",
    "llama-tiny",
    "llama3-tiny",
    "llama-new-tiny",
    "qwen2-tiny",
    "qwen3-tiny",
    "gemma-tiny",
    "gemma3-tiny",
    "gemma2-tiny",
];

/// A file or folder under tests/fixtures.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A JSON file under tests/fixtures.
pub fn fixture_json(name: &str) -> Result<Value> {
    let path = fixture(name);
    serde_json::from_slice(&std::fs::read(&path).with_context(|| path.display().to_string())?)
        .context(path.display().to_string())
}

/// A fixture model, its weights in f32.
pub fn open(name: &str) -> Result<(Model, Params)> {
    Model::open(&Source::Folder(fixture(name)), DType::F32)
}

/// A model folder of its own that a test may damage.
pub fn copy_of(name: &str) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    for entry in std::fs::read_dir(fixture(name))? {
        let entry = entry?;
        std::fs::copy(entry.path(), folder.path().join(entry.file_name()))?;
    }
    Ok(folder)
}

/// Edits the JSON object in `folder/name`.
pub fn edit(folder: &Path, name: &str, change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Result<()> {
    let path = folder.join(name);
    let mut value: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    change(value.as_object_mut().unwrap());
    Ok(std::fs::write(path, value.to_string())?)
}

/// An array of numbers.
pub fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
}

/// An array of token ids.
pub fn tokens(value: &Value) -> Vec<u32> {
    numbers(value).into_iter().map(|x| x as u32).collect()
}

/// An example made of a prompt and answers, as tokens.
pub fn example(label: usize, prompt: &[u32], answers: &[&[u32]]) -> Example {
    let candidates = answers
        .iter()
        .map(|a| Candidate { tokens: prompt.iter().chain(*a).copied().collect(), option_len: a.len() })
        .collect();
    Example { index: 0, label, candidates, cut: false, shortened: false, row: Digest(0) }
}

/// The `step`-th step, from 1, of a run seeded 5.
pub fn at(step: u64, learning_rate: f32) -> StepContext {
    StepContext { step, run_seed: 5, learning_rate }
}

pub use zotune::labs::LeastSquares as Regression;
pub use zotune::labs::numbers::flat;

/// A function's values at points near the weights: at copies that walk there.
pub fn at_copies(params: &mut Params, points: &Points, mut loss: impl FnMut(Weights) -> Result<f32>) -> Result<Vec<f32>> {
    params.settle()?;
    let look = |terms: Vec<Term>| {
        let mut there = params.copy()?;
        there.perturb_over(points.set(), &terms);
        loss(there.settle()?)
    };
    points.each().map(look).collect()
}

/// Says, past the test harness, that a check was left out.
pub fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// The real data and models that lie beside the repository where it is developed; None in a stranger's clone.
pub fn shared(path: &str) -> Option<PathBuf> {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path);
    if !place.exists() {
        skipped(&format!("{path} is not here; this check needs real data that the repository does not carry"));
        return None;
    }
    Some(place)
}

/// Whether the test called `name` has a process to itself, as tests that count the heap need. Where it has not, it is
/// run again in one of its own, and its outcome there is the outcome here.
pub fn alone(name: &str) -> Result<bool> {
    if std::env::var_os("ZOTUNE_TEST_ALONE").is_some() {
        return Ok(true);
    }
    let output = std::process::Command::new(std::env::current_exe()?)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("ZOTUNE_TEST_ALONE", "1")
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(false)
}

/// The sizes of a random LLaMA.
#[derive(Clone, Copy)]
pub struct Llama {
    pub vocab: usize,
    pub hidden: usize,
    pub inner: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub tied: bool,
}

impl Llama {
    /// Small, with grouped keys and an untied head.
    pub const SMALL: Llama = Llama { vocab: 64, hidden: 32, inner: 48, layers: 2, heads: 4, kv_heads: 2, tied: false };

    /// Random weights, stored as `dtype`, in a folder of their own in Hugging Face layout; and the tensors.
    pub fn write(self, dtype: DType) -> Result<(tempfile::TempDir, HashMap<String, Tensor>)> {
        let Llama { vocab, hidden, inner, layers, heads, kv_heads, tied } = self;
        let kv = kv_heads * hidden / heads;
        let mut shapes = vec![("model.embed_tokens.weight".to_string(), vec![vocab, hidden])];
        shapes.push(("model.norm.weight".into(), vec![hidden]));
        if !tied {
            shapes.push(("lm_head.weight".into(), vec![vocab, hidden]));
        }
        for i in 0..layers {
            for (part, shape) in [
                ("self_attn.q_proj", vec![hidden, hidden]),
                ("self_attn.k_proj", vec![kv, hidden]),
                ("self_attn.v_proj", vec![kv, hidden]),
                ("self_attn.o_proj", vec![hidden, hidden]),
                ("mlp.gate_proj", vec![inner, hidden]),
                ("mlp.up_proj", vec![inner, hidden]),
                ("mlp.down_proj", vec![hidden, inner]),
                ("input_layernorm", vec![hidden]),
                ("post_attention_layernorm", vec![hidden]),
            ] {
                shapes.push((format!("model.layers.{i}.{part}.weight"), shape));
            }
        }
        let mut tensors = HashMap::new();
        for (name, shape) in shapes {
            let (mean, sd) = if shape.len() == 1 { (1.0, 0.1) } else { (0.0, 1.0 / (shape[1] as f32).sqrt()) };
            let z = zotune::device::cpu::drawn::direction(1, &name, shape.iter().product());
            let values: Vec<f32> = z.into_iter().map(|z| sd * z + mean).collect();
            tensors.insert(name, Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?);
        }
        let folder = tempfile::tempdir()?;
        candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors"))?;
        let config = serde_json::json!({
            "model_type": "llama", "vocab_size": vocab, "hidden_size": hidden, "intermediate_size": inner,
            "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 256, "tie_word_embeddings": tied,
        });
        std::fs::write(folder.path().join("config.json"), config.to_string())?;
        Ok((folder, tensors))
    }

    /// The same, opened in f32.
    pub fn open(self) -> Result<(Model, Params)> {
        let (folder, _) = self.write(DType::F32)?;
        Model::open(&Source::Folder(folder.path().into()), DType::F32)
    }
}

/// A column of a parquet file.
pub enum Column {
    Texts(Vec<String>),
    Numbers(Vec<i64>),
}

/// Writes columns as the hub's data sets are: snappy, dictionaries, and so many rows to a group.
pub fn write_parquet(path: &Path, columns: &[(&str, Column)], rows_a_group: usize) -> Result<()> {
    use parquet::basic::{Compression, ConvertedType, Repetition, Type as Physical};
    use parquet::data_type::{ByteArrayType, Int64Type};
    use parquet::file::{properties::WriterProperties, writer::SerializedFileWriter};
    use parquet::schema::types::Type;
    let field = |(name, column): &(&str, Column)| {
        let builder = match column {
            Column::Texts(_) => {
                Type::primitive_type_builder(name, Physical::BYTE_ARRAY).with_converted_type(ConvertedType::UTF8)
            }
            Column::Numbers(_) => Type::primitive_type_builder(name, Physical::INT64),
        };
        Ok(builder.with_repetition(Repetition::OPTIONAL).build()?.into())
    };
    let fields = columns.iter().map(field).collect::<Result<_>>()?;
    let schema = Type::group_type_builder("schema").with_fields(fields).build()?;
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    std::fs::create_dir_all(path.parent().context("a file without a folder")?)?;
    let mut writer = SerializedFileWriter::new(std::fs::File::create(path)?, schema.into(), properties.into())?;
    let len = columns.first().map_or(0, |(_, column)| match column {
        Column::Texts(values) => values.len(),
        Column::Numbers(values) => values.len(),
    });
    for start in (0..len).step_by(rows_a_group) {
        let rows = start..len.min(start + rows_a_group);
        let mut group = writer.next_row_group()?;
        for (_, column) in columns {
            let mut place = group.next_column()?.context("a column is missing")?;
            let present = vec![1; rows.len()];
            match column {
                Column::Texts(values) => {
                    let values: Vec<_> = values[rows.clone()].iter().map(|text| text.as_str().into()).collect();
                    place.typed::<ByteArrayType>().write_batch(&values, Some(&present), None)?;
                }
                Column::Numbers(values) => {
                    place.typed::<Int64Type>().write_batch(&values[rows.clone()], Some(&present), None)?;
                }
            }
            place.close()?;
        }
        group.close()?;
    }
    writer.close()?;
    Ok(())
}
