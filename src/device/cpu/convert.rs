//! From one precision to another.

use crate::device::Element;

vectorize! {
    /// `from` in another precision, number by number: to f32 exactly, from there rounded once.
    pub fn convert[A: Element, B: Element](from: &[A], to: &mut [B]) {
        for (t, f) in to.iter_mut().zip(from) {
            *t = B::narrow(f.widen());
        }
    }
}
