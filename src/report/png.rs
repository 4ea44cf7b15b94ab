//! SVG as PNG, with a font of its own: a machine may have none.

use std::sync::Arc;

use anyhow::{Context, Result};
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::fontdb::Database;
use resvg::usvg::{Options, Tree};

/// Pixels for each pixel of the SVG.
const SCALE: f32 = 2.0;

/// Draws pictures.
pub struct Painter(Options<'static>);

impl Painter {
    /// With DejaVu Sans as its only font.
    pub fn new() -> Self {
        let mut fonts = Database::new();
        fonts.load_font_data(dejavu::sans::regular().to_vec());
        fonts.set_sans_serif_family("DejaVu Sans");
        Painter(Options { font_family: "DejaVu Sans".into(), fontdb: Arc::new(fonts), ..Options::default() })
    }

    /// The picture as the bytes of a PNG file.
    pub fn png(&self, svg: &str) -> Result<Vec<u8>> {
        let tree = Tree::from_str(svg, &self.0).context("cannot draw a figure")?;
        let size = tree.size().to_int_size().scale_by(SCALE).context("a figure without extent")?;
        let mut pixels = Pixmap::new(size.width(), size.height()).context("a figure that is too large")?;
        resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
        pixels.encode_png().context("cannot write a figure as PNG")
    }
}

impl Default for Painter {
    fn default() -> Self {
        Painter::new()
    }
}
