//! The set of images that an attack may choose from.

/// Maximum norm of a perturbation.
pub const BOUND: f64 = 0.2;

/// Images within [`BOUND`] of an image in the maximum norm, with pixels in [0, 1].
#[derive(Clone, Debug)]
pub struct Bounded {
    /// The image: [784].
    image: Vec<f32>,
    /// The least and the largest value of each pixel.
    ranges: Vec<(f32, f32)>,
}

impl Bounded {
    /// Around an image with pixels in [0, 1].
    pub fn new(image: Vec<f32>) -> Self {
        let ranges = image.iter().map(|pixel| range(f64::from(*pixel))).collect();
        Bounded { image, ranges }
    }

    /// The image.
    pub fn image(&self) -> &[f32] {
        &self.image
    }

    /// clamp(image + clamp(delta, -0.2, 0.2), 0, 1)
    pub fn moved(&self, delta: &[f32]) -> Vec<f32> {
        let moved = self.image.iter().zip(&self.ranges).zip(delta);
        moved.map(|((pixel, (low, high)), delta)| (pixel + delta).clamp(*low, *high)).collect()
    }

    /// The maximum norm of the difference to the image.
    pub fn distance(&self, other: &[f32]) -> f64 {
        let differences = self.image.iter().zip(other).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
        differences.fold(0.0, f64::max)
    }
}

/// The f32 numbers within the bound of a pixel and within [0, 1]. Their ends are rounded inwards, since x + 0.2 rounded to the nearest
/// may be further off than 0.2.
fn range(pixel: f64) -> (f32, f32) {
    let (mut low, mut high) = ((pixel - BOUND) as f32, (pixel + BOUND) as f32);
    if pixel - f64::from(low) > BOUND {
        low = low.next_up();
    }
    if f64::from(high) - pixel > BOUND {
        high = high.next_down();
    }
    (low.max(0.0), high.min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For every value that a pixel has, and for perturbations of any size.
    #[test]
    fn no_perturbation_leaves_the_bound() {
        let bounded = Bounded::new((0..=255).map(|pixel| pixel as f32 / 255.0).collect());
        let deltas = [0.0, 1e-9, -0.1, 0.199_999_99, 0.2, -0.2, 0.200_000_02, 3.0, -1e30, f32::INFINITY, f32::NEG_INFINITY];
        for delta in deltas {
            let moved = bounded.moved(&[delta; 256]);
            assert!(bounded.distance(&moved) <= BOUND && moved.iter().all(|pixel| (0.0..=1.0).contains(pixel)), "{delta}");
            for (pixel, moved) in bounded.image().iter().zip(moved) {
                let expected = (pixel + delta.clamp(-0.2, 0.2)).clamp(0.0, 1.0);
                assert!((moved - expected).abs() < 1e-6, "{pixel} + {delta}: {moved}, not {expected}");
            }
        }
        // The bound is reached to rounding.
        assert!(bounded.distance(&bounded.moved(&[1.0; 256])) > BOUND - 1e-7);
    }
}
