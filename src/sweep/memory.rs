//! How many cells fit into the memory side by side.

/// The most cells, of those with these peaks in bytes, that run side by side without exceeding the machine's memory whichever they
/// are; at most `jobs`, at least 1.
pub fn side_by_side(jobs: usize, peaks: &[u64], machine: Option<u64>) -> usize {
    let Some(machine) = machine else { return jobs.max(1) };
    let mut largest = peaks.to_vec();
    largest.sort_unstable_by(|a, b| b.cmp(a));
    let held = largest.iter().scan(0u64, |sum, peak| {
        *sum = sum.saturating_add(*peak);
        Some(*sum)
    });
    let fit = held.take_while(|sum| *sum <= machine).count();
    // More at once than there are cells changes nothing.
    let fit = if fit == largest.len() { jobs } else { fit };
    fit.clamp(1, jobs.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_cells_at_once_decide() {
        assert_eq!(side_by_side(4, &[10, 60, 30, 10], Some(100)), 3);
        assert_eq!(side_by_side(4, &[10, 60, 30, 10], Some(89)), 1);
        assert_eq!(side_by_side(2, &[10, 60, 30, 10], Some(1000)), 2);
        assert_eq!(side_by_side(3, &[200, 200], Some(100)), 1);
        assert_eq!(side_by_side(3, &[200], None), 3);
        assert_eq!(side_by_side(0, &[], Some(1)), 1);
        assert_eq!(side_by_side(8, &[1, 1], Some(100)), 8);
    }
}
