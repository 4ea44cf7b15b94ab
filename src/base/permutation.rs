//! NumPy's random permutations.

use rand_mt::Mt;

/// `np.random.seed(seed); np.random.permutation(n)`: MT19937, bounded draws by masked rejection, Fisher-Yates from the
/// end. NumPy guarantees this stream.
pub fn permutation(seed: u32, n: usize) -> Vec<usize> {
    let mut generator = Mt::new(seed);
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, bounded(&mut generator, i as u64) as usize);
    }
    order
}

/// A uniform draw from 0..=max.
fn bounded(generator: &mut Mt, max: u64) -> u64 {
    let mask = u64::MAX >> max.leading_zeros();
    loop {
        let word = if max <= u64::from(u32::MAX) {
            u64::from(generator.next_u32())
        } else {
            // As NumPy's 64-bit draw: the high word first.
            let high = u64::from(generator.next_u32());
            (high << 32) | u64::from(generator.next_u32())
        };
        if word & mask <= max {
            return word & mask;
        }
    }
}
