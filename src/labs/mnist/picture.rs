//! Images of digits as PNG files.

use std::path::Path;

use anyhow::{Context, Result};
use resvg::tiny_skia::{ColorU8, Pixmap};

use super::images::SIDE;
use crate::base::files;

/// Pixels of the picture for each of the image, in both directions.
const SCALE: usize = 10;

/// Writes an image [784] in [0, 1] as a grey picture of 280 x 280, from black to white.
pub fn write(image: &[f32], path: &Path) -> Result<()> {
    let side = SIDE * SCALE;
    let mut picture = Pixmap::new(side as u32, side as u32).context("cannot make a picture")?;
    for (at, pixel) in picture.pixels_mut().iter_mut().enumerate() {
        let grey = (255.0 * image[at / side / SCALE * SIDE + at % side / SCALE]).round() as u8;
        *pixel = ColorU8::from_rgba(grey, grey, grey, 255).premultiply();
    }
    files::write_bytes(path, &picture.encode_png().context("cannot write a picture as PNG")?)
}
