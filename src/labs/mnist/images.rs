//! MNIST's images with their labels.

use std::path::Path;

use anyhow::{Result, bail};

use super::idx::{self, Idx};
use super::parquet;
use crate::base::Digest;
use crate::labs::dataset::Dataset;

/// Digits.
pub const CLASSES: usize = 10;

/// Pixels of a side of an image.
pub const SIDE: usize = 28;

/// Pixels of an image.
pub const IMAGE: usize = SIDE * SIDE;

/// Where the hub has them.
pub const DATASET: Dataset = Dataset { repo: "ylecun/mnist", files: &[Files::Train.on_hub(), Files::Test.on_hub()] };

/// The two splits.
#[derive(Clone, Copy, Debug)]
pub enum Files {
    /// 60,000 images.
    Train,
    /// 10,000 images.
    Test,
}

impl Files {
    /// What the names of its two IDX files begin with.
    fn name(self) -> &'static str {
        match self {
            Files::Train => "train",
            Files::Test => "t10k",
        }
    }

    /// Its file on the hub.
    const fn on_hub(self) -> &'static str {
        match self {
            Files::Train => "mnist/train-00000-of-00001.parquet",
            Files::Test => "mnist/test-00000-of-00001.parquet",
        }
    }
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

    /// Reads the files in `folder`: IDX files, or those of the hub. Unusable files are a usage error.
    pub fn read(folder: &Path, files: Files) -> Result<Self> {
        let on_hub = folder.join(files.on_hub());
        let (pixels, labels) = if on_hub.is_file() { parquet::read(&on_hub, SIDE)? } else { Self::read_idx(folder, files)? };
        if let Some(at) = labels.iter().position(|label| usize::from(*label) >= CLASSES) {
            let file = if on_hub.is_file() { files.on_hub().into() } else { format!("{}-labels-idx1-ubyte", files.name()) };
            bail!(usage!("`data` {}, {file}: label {at}, counted from 0, is {}, not a digit", folder.display(), labels[at]));
        }
        Images::new(pixels, labels)
    }

    /// Pixels [images, 784] and labels [images] of two IDX files.
    fn read_idx(folder: &Path, files: Files) -> Result<(Vec<u8>, Vec<u8>)> {
        let name = files.name();
        let Idx { shape, bytes: pixels } = idx::read(folder, &format!("{name}-images-idx3-ubyte"), 3)?;
        let labels = idx::read(folder, &format!("{name}-labels-idx1-ubyte"), 1)?.bytes;
        let refuse = |why: String| Err(usage!("`data` {}, {name}-...-ubyte: {why}", folder.display()));
        if shape[1..] != [SIDE, SIDE] {
            return refuse(format!("the images are {} x {}, not {SIDE} x {SIDE}", shape[1], shape[2]));
        }
        if shape[0] != labels.len() {
            return refuse(format!("there are {} images and {} labels", shape[0], labels.len()));
        }
        Ok((pixels, labels))
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
