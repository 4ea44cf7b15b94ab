//! The noise against its definition: known answers, moments, the normal distribution, independence, and equal bits on
//! every instruction set.

use anyhow::Result;
use zotune::device::cpu::drawn::{direction, drawn};
use zotune::device::cpu::moves::apply_moves;
use zotune::device::cpu::{AffineMove, Machine};
use zotune::direction::group::GROUP;
use zotune::direction::seed::{direction_seed, tensor_id};
use zotune::direction::{Direction, Key};

const N: usize = 1 << 20;

/// `moments[k]` is the mean of z^k.
fn moments(z: &[f32]) -> [f64; 5] {
    let mut sums = [0f64; 5];
    for &z in z {
        let z = f64::from(z);
        (0..5).for_each(|k| sums[k] += z.powi(k as i32));
    }
    sums.map(|s| s / z.len() as f64)
}

fn correlation(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() / a.len() as f64
}

/// Threefry-2x32-13 gives what Random123's kat_vectors say; seen through the definition of the first group.
#[test]
fn the_generator_is_threefry() {
    // From random123/examples/kat_vectors: counter, key, result.
    let known: [([u32; 2], [u32; 2], [u32; 2]); 3] = [
        ([0, 0], [0, 0], [0x9d1c_5ec6, 0x8bd5_0731]),
        ([u32::MAX; 2], [u32::MAX; 2], [0xfd36_d048, 0x2d17_272c]),
        ([0x243f_6a88, 0x85a3_08d3], [0x1319_8a2e, 0x0370_7344], [0xba3e_4725, 0xf27d_669e]),
    ];
    for (counter, key, result) in known {
        assert_eq!(
            zotune::direction::threefry::threefry(key, counter),
            result.map(|word| [word]),
            "counter {counter:x?}, key {key:x?}"
        );
    }
}

/// Elements j and j + GROUP / 2 of a direction are the exact Box-Muller transform, in f64, of the group's j-th word.
#[test]
fn every_element_is_box_mullers_transform_of_its_word() {
    let key = Key::new(Direction::Gaussian, 5, tensor_id("w"));
    let z = direction(5, "w", 4 * GROUP);
    for (i, z) in z.iter().enumerate() {
        let (group, word) = (i / GROUP, i % (GROUP / 2));
        let counter = (group * (GROUP / 4) + word % (GROUP / 4)) as u32;
        let word = zotune::direction::threefry::threefry::<1>(key.words(), [counter, 0])[word / (GROUP / 4)][0];
        let radius = (-2.0 * ((f64::from(word >> 12) + 0.5) / 2f64.powi(20)).ln()).sqrt();
        let angle = std::f64::consts::FRAC_PI_4 * (f64::from(word & 0x1ff) + 0.5) / 512.0;
        let (mut first, mut second) = (angle.cos(), angle.sin());
        if word >> 9 & 1 == 1 {
            std::mem::swap(&mut first, &mut second);
        }
        let signed = |x: f64, bit: u32| if word >> bit & 1 == 1 { -x } else { x };
        let exact = radius * if i % GROUP < GROUP / 2 { signed(first, 10) } else { signed(second, 11) };
        assert!((f64::from(*z) - exact).abs() < 1e-5, "element {i}: {z}, not {exact}");
    }
}

#[test]
fn moments_are_those_of_the_normal_distribution() {
    for seed in [0, 1, u64::MAX] {
        let m = moments(&direction(seed, "w", N));
        // Five standard errors: sqrt((E z^2k - (E z^k)^2) / n).
        let error = |variance: f64| 5.0 * (variance / N as f64).sqrt();
        for (k, (expected, variance)) in [(0.0, 1.0), (1.0, 2.0), (0.0, 15.0), (3.0, 96.0)].into_iter().enumerate() {
            assert!((m[k + 1] - expected).abs() < error(variance), "seed {seed}: E z^{} = {}", k + 1, m[k + 1]);
        }
    }
}

#[test]
fn the_distribution_passes_kolmogorov_smirnov() {
    let mut z = direction(3, "w", N);
    z.sort_by(f32::total_cmp);
    let n = N as f64;
    let normal = |x: f64| 0.5 * candle_core::cpu::erf::erfc_f64(-x / std::f64::consts::SQRT_2);
    let distance = z.iter().enumerate().map(|(i, z)| {
        let f = normal(f64::from(*z));
        (f - i as f64 / n).abs().max((f - (i + 1) as f64 / n).abs())
    });
    let d = distance.fold(0.0, f64::max);
    // P(sqrt(n) D > 1.95) = 0.001.
    assert!(d * n.sqrt() < 1.95, "sqrt(n) D = {}", d * n.sqrt());
    // The tails are there: 2 P(Z > 4.5) = 6.8e-6, 7 of a million expected.
    assert!((1..30).contains(&z.iter().filter(|z| z.abs() > 4.5).count()));
}

#[test]
fn neighbouring_seeds_tensors_and_indices_are_uncorrelated() {
    let base = direction(7, "w.1", N);
    let limit = 5.0 / (N as f64).sqrt();
    for (what, other) in [
        ("seeds", direction(8, "w.1", N)),
        ("seeds a bit apart", direction(7 | 1 << 40, "w.1", N)),
        ("tensors", direction(7, "w.2", N)),
        ("steps", direction(direction_seed(0, 8, 0), "w.1", N)),
    ] {
        assert!(correlation(&base, &other).abs() < limit, "{what}: {}", correlation(&base, &other));
    }
    for shift in [1, 2, 16, GROUP / 2, GROUP, 1 << 16] {
        let c = correlation(&base[..N - shift], &base[shift..]);
        assert!(c.abs() < limit, "indices {shift} apart: {c}");
    }
    // The two halves of one Box-Muller pair share a radius: their squares must not be correlated either.
    let squares: Vec<f32> = base.iter().map(|z| z * z - 1.0).collect();
    let c = correlation(&squares[..N - GROUP / 2], &squares[GROUP / 2..]) / 2.0;
    assert!(c.abs() < limit, "squares of a pair: {c}");
}

/// No two steps, directions or runs share a seed, those of snapshots (2^32 on) among them.
#[test]
fn every_direction_of_every_step_has_a_seed_of_its_own() {
    let runs = 0..5u64;
    let all = runs.flat_map(|run| {
        (1..=400).flat_map(move |step| (0..10).chain((1 << 32)..(1 << 32) + 10).map(move |k| direction_seed(run, step, k)))
    });
    let all: Vec<u64> = all.collect();
    let distinct: std::collections::HashSet<u64> = all.iter().copied().collect();
    assert_eq!((all.len(), distinct.len()), (5 * 400 * 20, 5 * 400 * 20));
}

#[test]
fn a_direction_does_not_depend_on_where_one_starts_to_draw() {
    for kind in [Direction::Gaussian, Direction::Rademacher] {
        let whole = drawn(kind, 11, "w", 5000);
        for first in [3 * GROUP, 16 * GROUP, 17 * GROUP] {
            let mut part = vec![0f32; 5000 - first];
            apply_moves(
                &mut part,
                first,
                &[AffineMove { scale: 0.0, terms: vec![(Key::new(kind, 11, tensor_id("w")), 1.0)], rounding: None }],
            );
            assert_eq!(part, whole[first..]);
        }
    }
}

/// Signs come 2,048 at a time, of 64 words: those of 32 counters, first each one's first, then each one's second. The first 64 elements
/// are the words' lowest bits, the next 64 those beside them, and so on.
#[test]
fn every_sign_is_a_bit_of_the_generator() {
    let key = Key::new(Direction::Rademacher, 5, tensor_id("w"));
    let z = drawn(Direction::Rademacher, 5, "w", 3 * 2048 + 77);
    for (i, z) in z.iter().enumerate() {
        let (block, bit, word) = (i / 2048, i % 2048 / 64, i % 64);
        let (half, counter) = (word / 32, word % 32);
        let word = zotune::direction::threefry::threefry::<1>(key.words(), [(32 * block + counter) as u32, 0])[half][0];
        assert_eq!(*z, if word >> bit & 1 == 1 { -1.0 } else { 1.0 }, "element {i}");
    }
}

/// Signs are +1 or -1 with equal chances and tell nothing of each other, of other directions' or of the seed's Gaussian one.
#[test]
fn signs_are_fair_and_uncorrelated() {
    let signs = |seed, name| drawn(Direction::Rademacher, seed, name, N);
    let (base, limit) = (signs(7, "w.1"), 5.0 / (N as f64).sqrt());
    assert!(base.iter().all(|z| z.abs() == 1.0) && moments(&base)[1].abs() < limit, "{:?}", moments(&base));
    for (what, other) in [
        ("seeds", signs(8, "w.1")),
        ("seeds a bit apart", signs(7 | 1 << 40, "w.1")),
        ("tensors", signs(7, "w.2")),
        ("steps", signs(direction_seed(0, 8, 0), "w.1")),
        ("the normals of the seed", direction(7, "w.1", N)),
    ] {
        assert!(correlation(&base, &other).abs() < limit, "{what}: {}", correlation(&base, &other));
    }
    for shift in [1, 2, 31, 32, 33, GROUP, 1024, 2048, 1 << 16] {
        let c = correlation(&base[..N - shift], &base[shift..]);
        assert!(c.abs() < limit, "indices {shift} apart: {c}");
    }
    // Runs of one sign are as long as a fair coin's: half of them one long, a quarter two.
    let mut runs = [0f64; 3];
    let mut length = 0;
    for (a, b) in base.iter().zip(&base[1..]) {
        length += 1;
        if a != b {
            runs[length.min(3) - 1] += 1.0;
            length = 0;
        }
    }
    let all: f64 = runs.iter().sum();
    assert!((runs[0] / all - 0.5).abs() < 5e-3 && (runs[1] / all - 0.25).abs() < 5e-3, "{runs:?}");
}

/// Scalar, AVX2 and AVX-512 code agree exactly, in every precision: all that the machine has.
#[test]
fn every_instruction_set_gives_the_same_bits() -> Result<()> {
    let w = tensor_id("w");
    let rounding = |step| Some(Key::of_rounding(step, w));
    let affine_move = |terms: &[(Key, f32)], rounding| AffineMove { scale: 0.99, terms: terms.to_vec(), rounding };
    let moves = [
        affine_move(
            &[(Key::new(Direction::Gaussian, 1, w), 1e-3), (Key::new(Direction::Gaussian, 2, w), 1e-3)],
            rounding(1),
        ),
        affine_move(
            &[(Key::new(Direction::Rademacher, 3, w), 1e-3), (Key::new(Direction::Gaussian, 4, w), 1e-3)],
            rounding(2),
        ),
        affine_move(&[(Key::new(Direction::Gaussian, 5, w), 1e-3)], None),
    ];
    let run = || {
        let mut f32s: Vec<f32> = (0..3000).map(|i| (i as f32).sin()).collect();
        let mut bf16s: Vec<half::bf16> = f32s.iter().map(|x| half::bf16::from_f32(*x)).collect();
        let mut f16s: Vec<half::f16> = f32s.iter().map(|x| half::f16::from_f32(*x)).collect();
        apply_moves(&mut f32s, 0, &moves);
        apply_moves(&mut bf16s, 0, &moves);
        apply_moves(&mut f16s, 0, &moves);
        let bits: Vec<u32> = f32s.iter().map(|x| x.to_bits()).collect();
        let halves: Vec<u16> = bf16s.iter().map(|x| x.to_bits()).chain(f16s.iter().map(|x| x.to_bits())).collect();
        (bits, halves)
    };
    let baseline = zotune::device::cpu::simd::on(Machine::Baseline, 1, run)?;
    for machine in zotune::device::cpu::simd::machines() {
        assert!(zotune::device::cpu::simd::on(machine, 1, run)? == baseline, "{machine:?} differs from the baseline");
    }
    Ok(())
}
