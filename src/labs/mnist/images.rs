//! MNIST's images with their labels.

use std::path::Path;

use anyhow::{Result, bail};

use super::idx::{self, Idx};
use crate::base::Digest;

/// Digits.
pub const CLASSES: usize = 10;

/// Pixels of a side of an image.
pub const SIDE: usize = 28;

/// Pixels of an image.
pub const IMAGE: usize = SIDE * SIDE;

/// The two pairs of files.
#[derive(Clone, Copy, Debug)]
pub enum Files {
    /// train-...: 60,000 images.
    Train,
    /// t10k-...: 10,000 images.
    Test,
}

/// Images and their labels.
#[derive(Clone, Debug)]
pub struct Images {
    /// [images, 784], 0: background.
    pixels: Vec<u8>,
    /// [images], from 0 to 9.
    labels: Vec<u8>,
}

impl Images {
    /// From pixels [images, 784] and labels [images].
    pub fn new(pixels: Vec<u8>, labels: Vec<u8>) -> Result<Self> {
        if pixels.len() != labels.len() * IMAGE {
            bail!("{} pixels are not {} images of {SIDE} x {SIDE}", pixels.len(), labels.len());
        }
        Ok(Images { pixels, labels })
    }

    /// Reads the files in `folder`. Unusable files are a usage error.
    pub fn read(folder: &Path, files: Files) -> Result<Self> {
        let name = match files {
            Files::Train => "train",
            Files::Test => "t10k",
        };
        let Idx { shape, bytes: pixels } = idx::read(folder, &format!("{name}-images-idx3-ubyte"), 3)?;
        let labels = idx::read(folder, &format!("{name}-labels-idx1-ubyte"), 1)?.bytes;
        let refuse = |why: String| Err(usage!("`data` {}, {name}-...-ubyte: {why}", folder.display()));
        if shape[1..] != [SIDE, SIDE] {
            return refuse(format!("the images are {} x {}, not {SIDE} x {SIDE}", shape[1], shape[2]));
        }
        if shape[0] != labels.len() {
            return refuse(format!("there are {} images and {} labels", shape[0], labels.len()));
        }
        if let Some(at) = labels.iter().position(|label| usize::from(*label) >= CLASSES) {
            return refuse(format!("label {at}, counted from 0, is {}, not a digit", labels[at]));
        }
        Images::new(pixels, labels)
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Those of these indices, in this order.
    pub fn chosen(&self, indices: &[usize]) -> Self {
        Images {
            pixels: indices.iter().flat_map(|&i| &self.pixels[i * IMAGE..(i + 1) * IMAGE]).copied().collect(),
            labels: indices.iter().map(|&i| self.labels[i]).collect(),
        }
    }

    /// The label of an image.
    pub fn label(&self, i: usize) -> usize {
        usize::from(self.labels[i])
    }

    /// The pixels of these images in [0, 1]: [indices, 784].
    pub fn values(&self, indices: &[usize]) -> Vec<f32> {
        let image = |i: usize| self.pixels[i * IMAGE..(i + 1) * IMAGE].iter().map(|pixel| f32::from(*pixel) / 255.0);
        indices.iter().flat_map(|&i| image(i)).collect()
    }

    /// Digest of pixels and labels.
    pub fn digest(&self) -> Digest {
        Digest::of_digests(&[Digest::of(&self.labels), Digest::of(&self.pixels)])
    }
}
