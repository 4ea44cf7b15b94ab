//! Permutations exactly as NumPy's legacy generator draws them: MeZO's splits depend on it.

use rand_mt::Mt;

/// `np.random.seed(seed); np.random.permutation(n)`: MT19937, bounded draws by masked rejection, Fisher-Yates from the
/// end. NumPy has frozen this stream.
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
            // NumPy's 64-bit draw: the high word first.
            let high = u64::from(generator.next_u32());
            (high << 32) | u64::from(generator.next_u32())
        };
        if word & mask <= max {
            return word & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first values that `np.random.seed(0); np.random.permutation(n)` gives.
    #[test]
    fn permutations_are_numpys() {
        for (n, first) in [
            (10, vec![2, 8, 4, 9, 1, 6, 7, 3, 0, 5]),
            (67349, vec![43787, 16159, 59015, 5108, 67052, 35938, 49879, 51591]),
            (872, vec![372, 676, 548, 293, 382, 532, 263, 636]),
            (400, vec![132, 309, 341, 196, 246, 60, 155, 261]),
            (100, vec![26, 86, 2, 55, 75, 93, 16, 73]),
        ] {
            assert_eq!(permutation(0, n)[..first.len()], first, "permutation({n})");
        }
        assert_eq!(permutation(0, 0), Vec::<usize>::new());
    }
}
