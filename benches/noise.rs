//! What a walk costs: `cargo bench --bench noise`. Elements per second; 2.5 ns a weight and thread is 0.4 G elements/s.

#![allow(missing_docs, reason = "criterion's macros document nothing")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use zotune::noise::{Key, tensor_id, walk};
use zotune::simd::{self, Level};

fn walks(c: &mut Criterion) {
    let mut group = c.benchmark_group("walk");
    let mut weights = vec![0.01f32; 1 << 16];
    group.throughput(Throughput::Elements(weights.len() as u64));
    let keys = [1, 2].map(|seed| (Key::new(seed, tensor_id("w")), 1e-3));
    for level in [Level::Baseline, Level::Avx2, Level::Avx512] {
        simd::limit(level);
        if simd::level() != level {
            continue;
        }
        for terms in [1, 2] {
            let id = BenchmarkId::new(format!("f32, {}", level.name()), format!("{terms} directions"));
            group.bench_function(id, |b| b.iter(|| walk(&mut weights, 0, 1.0, &keys[..terms])));
        }
    }
    simd::limit(Level::Avx512);
    let mut halves = vec![half::bf16::from_f32(0.01); 1 << 16];
    group.bench_function("bf16, best", |b| b.iter(|| walk(&mut halves, 0, 1.0, &keys[..1])));
    let mut halves = vec![half::f16::from_f32(0.01); 1 << 16];
    group.bench_function("f16, best", |b| b.iter(|| walk(&mut halves, 0, 1.0, &keys[..1])));
}

criterion_group!(benches, walks);
criterion_main!(benches);
