//! The parts of a step at OPT-125m's widths, on all threads: `cargo bench --bench parts`.
//!
//! Passes over weights report elements/s (weights times passes); products, attention and losses report multiply-adds/s,
//! each two FLOP. The first product is the matrix library's, as a reference for the machine.

#![allow(clippy::unwrap_used, reason = "a benchmark")]

use candle_core::{DType, Device, Tensor};
use criterion::{Criterion, Throughput};
use zotune::base::Source;
use zotune::data::task::Loss;
use zotune::data::{Batch, Candidate, Example};
use zotune::device::cpu::Kernel;
use zotune::device::cpu::attention::PrefixRows;
use zotune::device::{Activation, Heads, Scores};
use zotune::device::{Activations, Array};
use zotune::direction::Term;
use zotune::model::Model;
use zotune::ops::{self, Part};
use zotune::params::{ParamSet, Params, Points, UpdateInput};
use zotune::prompt::PromptLoss;
use zotune::zo::{Batches, Objective};

/// OPT-125m's width and heads, and the tokens and examples of a step on SST-2.
const HIDDEN: usize = 768;
const HEADS: Heads = Heads { queries: 12, keys: 12, dim: 64 };
const TOKENS: usize = 224;
const EXAMPLES: usize = 16;
const VOCAB: usize = 50_272;

/// Parameters "w" [outer, HIDDEN] and "b" [outer].
fn weights(outer: usize, dtype: DType) -> Params {
    let mut params = Params::new(dtype);
    for (name, shape) in [("w", vec![outer, HIDDEN]), ("b", vec![outer])] {
        params.insert(name, Array::of(&Tensor::zeros(shape, dtype, &Device::Cpu).unwrap()).unwrap()).unwrap();
    }
    params.perturb(&[Term::gaussian(0, 0.02)]);
    params.settle().unwrap();
    params
}

/// An Adam-like rule.
#[derive(Clone, Copy)]
struct Adam;

impl Kernel<2> for Adam {
    #[inline(always)]
    fn apply(&self, weight: f32, gradient: f32, [m, v]: [f32; 2]) -> (f32, [f32; 2]) {
        let (m, v) = (0.9f32.mul_add(m, 0.1 * gradient), 0.99f32.mul_add(v, 0.01 * gradient * gradient));
        ((m / (v + 1e-8).sqrt()).mul_add(-1e-9, weight), [m, v])
    }
}

fn passes(c: &mut Criterion) {
    let mut group = c.benchmark_group("passes");
    for dtype in [DType::F32, DType::BF16] {
        let mut params = weights(16_384, dtype);
        group.throughput(Throughput::Elements(params.count() as u64));
        let mut seed = 0;
        group.bench_function(format!("settle one direction, {}", dtype.as_str()), |b| {
            b.iter(|| {
                seed += 1;
                params.perturb(&[Term::gaussian(seed, 1e-9)]);
                params.settle().unwrap();
            });
        });
        let mut state = params.state(["m", "v"], Default::default());
        group.bench_function(format!("update two moments, {}", dtype.as_str()), |b| {
            b.iter(|| {
                seed += 1;
                let terms = [Term::gaussian(seed, 1e-3)];
                let input = UpdateInput { terms: &terms, correction: &[], shrink: 1.0, seed };
                params.update(&input, &mut state, &Adam).unwrap();
            });
        });
    }
}

fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("products");
    let square = Tensor::ones((2048, 2048), DType::F32, &Device::Cpu).unwrap();
    group.throughput(Throughput::Elements(2048u64.pow(3)));
    group.bench_function("the matrix library's, 2048 x 2048 x 2048, f32", |b| b.iter(|| square.matmul(&square).unwrap()));
    let x = Activations::new(vec![1.0; TOKENS * HIDDEN], &[TOKENS, HIDDEN]).unwrap();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let mut params = weights(4 * HIDDEN, dtype);
        let ids = ["w", "b"].map(|name| params.id(name).unwrap());
        let weights = params.settle().unwrap();
        group.throughput(Throughput::Elements((TOKENS * 4 * HIDDEN * HIDDEN) as u64));
        group.bench_function(format!("linear layer, {TOKENS} x 768 x 3072, {}", dtype.as_str()), |b| {
            b.iter(|| {
                let part = Part { weight: weights.leaf(ids[0]), bias: Some(weights.leaf(ids[1])) };
                ops::linear(&x, vec![part], Activation::Relu).unwrap()
            });
        });
    }
}

/// Examples like SST-2's: a prompt of 13 tokens and two answers of one token.
fn examples() -> Vec<Example> {
    let tokens = |i: usize, answer: u32| (0..13).map(|t| (31 * i as u32 + 7 * t) % 4096).chain([answer]).collect();
    let candidate = |i, answer| Candidate { tokens: tokens(i, answer), option_len: 1 };
    let example = |i| Example {
        index: i,
        label: i % 2,
        candidates: vec![candidate(i, 5), candidate(i, 6)],
        cut: false,
        shortened: false,
        row: zotune::base::Digest(0),
    };
    (0..EXAMPLES).map(example).collect()
}

fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    let prompts = Batch::pack(&examples(), PromptLoss::pick(Loss::Classification));
    let long = Batch::sequence(&[7; 1024]);
    for (name, batch) in [("16 prompts of 13 tokens", prompts), ("1,024 tokens", long)] {
        let qkv = Activations::Cpu(Tensor::rand(-1f32, 1f32, (batch.num_tokens(), 3 * HIDDEN), &Device::Cpu).unwrap());
        // Multiply-adds of scores and of the weighted sum of values, over half a square each.
        let pairs = if batch.num_tokens() == 1024 { 1024 * 1025 / 2 } else { EXAMPLES * 13 * 14 / 2 };
        group.throughput(Throughput::Elements((2 * pairs * HIDDEN) as u64));
        group.bench_function(name, |b| {
            b.iter(|| ops::attention(&qkv, batch.blocks(), PrefixRows::NONE, HEADS, Scores::of(HEADS)).unwrap())
        });
    }
}

/// Multiply-adds of a loss with two blocks and the head, without attention's. In the last block only q, k and v cover all
/// tokens; the head covers the vocabulary only if its normaliser does not cancel.
fn multiply_adds(tokens: usize, loss: Loss) -> u64 {
    let blocks = (12 + 3) * tokens + 9 * EXAMPLES;
    let head = if loss == Loss::TeacherForcing { EXAMPLES * VOCAB } else { 0 };
    ((blocks * HIDDEN + head) * HIDDEN) as u64
}

/// A loss on a batch: OPT-125m's widths and vocabulary, two blocks.
fn losses(c: &mut Criterion) {
    let mut group = c.benchmark_group("loss");
    let folder = tempfile::tempdir().unwrap();
    let config = serde_json::json!({
        "model_type": "opt", "vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 12,
        "ffn_dim": 4 * HIDDEN, "max_position_embeddings": 2048,
    });
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let examples = examples();
    for dtype in [DType::F32, DType::BF16] {
        let (model, mut params) =
            Model::open_meta(&Source::Folder(folder.path().into()), dtype, None).unwrap().0.stand_in(dtype, 2).unwrap();
        for loss in [Loss::Classification, Loss::TeacherForcing] {
            let batches = Batches::new(EXAMPLES, EXAMPLES, 0);
            let mut problem = PromptLoss::new(&model, loss, &examples, batches, EXAMPLES);
            group.throughput(Throughput::Elements(multiply_adds(problem.num_tokens(), loss)));
            group.bench_function(format!("{loss:?}, two blocks and the head, {}", dtype.as_str()), |b| {
                b.iter(|| problem.loss(params.settle().unwrap()).unwrap());
            });
        }
        let batches = Batches::new(EXAMPLES, EXAMPLES, 0);
        let mut problem = PromptLoss::new(&model, Loss::Classification, &examples, batches, EXAMPLES);
        group.throughput(Throughput::Elements(2 * multiply_adds(problem.num_tokens(), Loss::Classification)));
        let mut seed = 0;
        group.bench_function(format!("Classification on both sides, two blocks and the head, {}", dtype.as_str()), |b| {
            b.iter(|| {
                seed += 1;
                let sides = [1e-3, -1e-3].map(|coeff| vec![Term::gaussian(seed, coeff)]);
                problem.losses_at(&mut params, Points::new(ParamSet::Estimated, &sides)).unwrap()
            });
        });
    }
}

/// Runs on a thread of the pool, as the program does.
fn main() {
    rayon::ThreadPoolBuilder::new().build().unwrap().install(|| {
        let mut c = Criterion::default().configure_from_args();
        for bench in [passes, products, attention, losses] {
            bench(&mut c);
        }
        c.final_summary();
    });
}
