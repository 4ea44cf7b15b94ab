//! Cost of drawing directions: `cargo bench --bench noise`. In elements/s: 1 ns per weight on one thread is 1 G elements/s.

#![allow(missing_docs, reason = "criterion's macros document nothing")]

use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use zotune::device::cpu::AffineMove;
use zotune::device::cpu::displaced::displace;
use zotune::device::cpu::gram::gram;
use zotune::device::cpu::moves::apply_moves;
use zotune::direction::seed::tensor_id;
use zotune::direction::{Direction, Key};

fn walks(c: &mut Criterion) {
    let mut group = c.benchmark_group("walk");
    let mut weights = vec![0.01f32; 1 << 16];
    group.throughput(Throughput::Elements(weights.len() as u64));
    let along = |direction: Direction, seeds: &[u64]| {
        let terms = seeds.iter().map(|s| (Key::new(direction, *s, tensor_id("w")), 1e-3)).collect();
        AffineMove { scale: 1.0, terms, rounding: None }
    };
    let affine_move = |seeds: &[u64]| along(Direction::Gaussian, seeds);
    let signs = [along(Direction::Rademacher, &[1])];
    let end = |affine_move: AffineMove| AffineMove { rounding: Some(Key::of_rounding(1, tensor_id("w"))), ..affine_move };
    let (one, two, step) = ([affine_move(&[1])], [affine_move(&[1, 2])], [end(affine_move(&[1]))]);
    for machine in zotune::device::cpu::simd::machines() {
        for (name, moves) in [("1 direction", &one[..]), ("2 directions", &two), ("signs", &signs)] {
            let id = BenchmarkId::new(format!("f32, {}", machine.name()), name);
            group.bench_function(id, |b| {
                b.iter_custom(|times| {
                    let weights = &mut weights;
                    let run = move || {
                        let start = Instant::now();
                        (0..times).for_each(|_| apply_moves(weights, 0, moves));
                        start.elapsed()
                    };
                    zotune::device::cpu::simd::on(machine, 1, run).unwrap_or_default()
                });
            });
        }
    }
    let mut bf16s = vec![half::bf16::from_f32(0.01); 1 << 16];
    let mut f16s = vec![half::f16::from_f32(0.01); 1 << 16];
    for (name, moves) in [("best", &one[..]), ("2 directions", &two), ("a step's end", &step), ("signs", &signs)] {
        group.bench_function(format!("bf16, {name}"), |b| b.iter(|| apply_moves(&mut bf16s, 0, moves)));
        group.bench_function(format!("f16, {name}"), |b| b.iter(|| apply_moves(&mut f16s, 0, moves)));
    }
    let (keys, mut products) = ([Key::new(Direction::Gaussian, 1, tensor_id("w"))], [0.0]);
    group.bench_function("its norm", |b| b.iter(|| gram(&keys, weights.len(), &mut products)));
    let mut sides = vec![0f32; 2 * weights.len()];
    for (name, direction) in [("read", Direction::Gaussian), ("read along signs", Direction::Rademacher)] {
        let keys = [Key::new(direction, 1, tensor_id("w"))];
        group.bench_function(format!("f32, both sides, {name}"), |b| {
            b.iter(|| displace(&weights, 0, &keys, &[1e-3, -1e-3], 2, &mut sides));
        });
    }
}

criterion_group!(benches, walks);
criterion_main!(benches);
