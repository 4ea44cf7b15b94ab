//! What several tests need.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor, WithDType};
use serde_json::Value;
use zotune::base::Source;
use zotune::data::{Candidate, Example};
use zotune::device::Element;
use zotune::direction::Term;
use zotune::model::Model;
use zotune::params::{Gradient, Leaf, ParamId, Params, Points, Role, Weights};
use zotune::zo::{Gradients, Objective, Problem, StepContext};

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
    Example { index: 0, label, candidates, cut: false, shortened: false }
}

/// The `step`-th step, from 1, of a run seeded 5.
pub fn at(step: u64, learning_rate: f32) -> StepContext {
    StepContext { step, run_seed: 5, learning_rate }
}

/// A finite sum in closed form: f_i(x) = (a_i . x - b_i)^2 / 2, over all numbers of all weights in order.
pub struct Regression {
    a: Vec<Vec<f64>>,
    b: Vec<f64>,
    pub batch: Vec<usize>,
}

impl Regression {
    /// n terms over d numbers, at a mini-batch of the first `batch` of them.
    pub fn new(n: usize, d: usize, batch: usize) -> Self {
        let a = (0..n).map(|i| (0..d).map(|j| ((7 * i + 3 * j + i * j) as f64).sin()).collect()).collect();
        let b = (0..n).map(|i| 1.0 + (i as f64).cos()).collect();
        Regression { a, b, batch: (0..batch).collect() }
    }

    /// Turns to the step's mini-batch: every step another, of one size.
    pub fn turn_to_step(&mut self, step: u64) {
        let (n, size) = (self.b.len(), self.batch.len());
        self.batch = (0..size).map(|k| (step as usize * size + k) % n).collect();
    }

    fn residual(&self, i: usize, x: &[f64]) -> f64 {
        self.a[i].iter().zip(x).map(|(a, x)| a * x).sum::<f64>() - self.b[i]
    }

    /// f_i
    pub fn value(&self, i: usize, x: &[f64]) -> f64 {
        self.residual(i, x).powi(2) / 2.0
    }

    /// The mean gradient of the terms `of`.
    pub fn gradient(&self, of: &[usize], x: &[f64]) -> Vec<f64> {
        let mut g = vec![0.0; x.len()];
        for &i in of {
            let r = self.residual(i, x) / of.len() as f64;
            g.iter_mut().zip(&self.a[i]).for_each(|(g, a)| *g += r * a);
        }
        g
    }
}

/// All numbers of all weights, in order.
pub fn flat(weights: Weights) -> Result<Vec<f64>> {
    let mut all = Vec::new();
    for (_, tensor) in weights.iter() {
        let values: Vec<f32> = tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?;
        all.extend(values.into_iter().map(f64::from));
    }
    Ok(all)
}

/// The same at each point that the weights are read at.
fn flat_at_points(weights: Weights) -> Result<Vec<Vec<f64>>> {
    fn read<T: WithDType + Element>(tensor: &Tensor, leaf: &Leaf, points: usize) -> Result<Vec<f32>> {
        let numbers: Vec<T> = tensor.flatten_all()?.to_vec1()?;
        let mut at_points = numbers.repeat(points);
        if let Some(displaced) = leaf.displaced() {
            displaced.read(&numbers, 0, &mut at_points);
        }
        Ok(at_points.into_iter().map(Element::widen).collect())
    }
    let mut all = vec![Vec::new(); weights.points()];
    for (id, _) in weights.ids() {
        let (tensor, leaf, points) = (weights.get(id), weights.leaf(id), weights.points());
        let numbers = match tensor.dtype() {
            DType::BF16 => read::<half::bf16>(tensor, &leaf, points)?,
            DType::F16 => read::<half::f16>(tensor, &leaf, points)?,
            _ => read::<f32>(tensor, &leaf, points)?,
        };
        for (all, numbers) in all.iter_mut().zip(numbers.chunks(tensor.elem_count())) {
            all.extend(numbers.iter().map(|x| f64::from(*x)));
        }
    }
    Ok(all)
}

impl Regression {
    pub fn loss(&mut self, weights: Weights) -> Result<f32> {
        let x = flat(weights)?;
        Ok((self.batch.iter().map(|&i| self.value(i, &x)).sum::<f64>() / self.batch.len() as f64) as f32)
    }
}

impl Objective for Regression {
    fn losses_at(&mut self, params: &mut Params, points: Points) -> Result<Vec<f32>> {
        at_copies(params, &points, |weights| self.loss(weights))
    }
}

/// A function's values at points near the weights: at copies that walk there.
pub fn at_copies(params: &mut Params, points: &Points, mut loss: impl FnMut(Weights) -> Result<f32>) -> Result<Vec<f32>> {
    params.settle()?;
    let look = |terms: Vec<Term>| {
        let mut there = params.copy()?;
        there.perturb_over(points.span(), &terms);
        loss(there.settle()?)
    };
    points.each().map(look).collect()
}

/// A dense gradient, one weight after the other, the last one first.
pub struct Given(pub Vec<(ParamId, Vec<f64>)>);

impl Gradients for Given {
    fn next(&mut self, _: Weights) -> Result<Option<Vec<(ParamId, Gradient)>>> {
        Ok(self.0.pop().map(|(id, values)| {
            let mut gradient = Gradient::zeros(values.len());
            gradient.iter_mut().zip(values).for_each(|(g, v)| *g = v as f32);
            vec![(id, gradient)]
        }))
    }
}

/// A gradient over all numbers as the weights that are to be differentiated have it.
pub fn given(gradient: &[f64], weights: Weights) -> Given {
    let mut start = 0;
    let mut all = Vec::new();
    for (id, _) in weights.ids() {
        let end = start + weights.get(id).elem_count();
        if weights.role(id) == Role::Differentiated {
            all.push((id, gradient[start..end].to_vec()));
        }
        start = end;
    }
    Given(all)
}

impl Problem for Regression {
    fn objective(&mut self) -> &mut dyn Objective {
        self
    }

    fn num_examples(&self) -> usize {
        self.b.len()
    }

    fn batch(&self) -> &[usize] {
        &self.batch
    }

    fn losses(&mut self, weights: Weights) -> Result<Vec<Vec<f64>>> {
        let all = |x: Vec<f64>| (0..self.b.len()).map(|i| self.value(i, &x)).collect();
        Ok(flat_at_points(weights)?.into_iter().map(all).collect())
    }

    fn backward<'a>(&'a self, weights: Weights) -> Result<(f32, Box<dyn Gradients + 'a>)> {
        let x = flat(weights)?;
        let loss = self.batch.iter().map(|&i| self.value(i, &x)).sum::<f64>() / self.batch.len() as f64;
        Ok((loss as f32, Box::new(given(&self.gradient(&self.batch, &x), weights))))
    }

    fn full_gradient(&self, weights: Weights, add: &mut dyn FnMut(ParamId, &[f32])) -> Result<u64> {
        let all: Vec<usize> = (0..self.b.len()).collect();
        let mut gradients = given(&self.gradient(&all, &flat(weights)?), weights);
        while let Some(block) = gradients.next(weights)? {
            block.iter().for_each(|(id, gradient)| add(*id, gradient));
        }
        Ok(self.b.len() as u64)
    }
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
