//! Conversion between precisions.

use crate::device::Element;

vectorize! {
    /// Converts elementwise: to f32 exactly, from there rounded once to nearest.
    pub fn convert[A: Element, B: Element](from: &[A], to: &mut [B]) {
        for (t, f) in to.iter_mut().zip(from) {
            *t = B::narrow(f.widen());
        }
    }
}
