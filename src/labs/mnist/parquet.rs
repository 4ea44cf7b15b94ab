//! MNIST as the hub has it: a parquet file a split, whose rows are a PNG picture and a label.

use std::fs::File;
use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};

use crate::base::panics::unless_panic;

/// Images of a file at most; MNIST's larger one has 60,000.
const MOST_IMAGES: i64 = 1 << 20;

/// Bytes that a decoder may allocate for one image.
const PNG_BYTES: usize = 1 << 16;

/// Pixels [images, side^2] and labels [images] of a file. An unusable file is a usage error.
pub fn read(path: &Path, side: usize) -> Result<(Vec<u8>, Vec<u8>)> {
    // The crate panics over some damaged files.
    let found = unless_panic(|| read_rows(path, side)).unwrap_or_else(|| Err(anyhow!("it is damaged")));
    found.map_err(|error| usage!("{}: {error:#}", path.display()))
}

fn read_rows(path: &Path, side: usize) -> Result<(Vec<u8>, Vec<u8>)> {
    let reader = SerializedFileReader::new(File::open(path)?).context("it is not a complete parquet file")?;
    let count = reader.metadata().file_metadata().num_rows();
    if !(0..=MOST_IMAGES).contains(&count) {
        bail!("it has {count} rows, more than MNIST ever has");
    }
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for (i, row) in reader.get_row_iter(None)?.enumerate() {
        let here = || format!("row {}", i + 1);
        let (image, label) = example(&row.context("it is damaged")?).with_context(here)?;
        pixels.extend(decoded(&image, side).with_context(here)?);
        labels.push(label);
    }
    Ok((pixels, labels))
}

/// The picture and the label of a row.
fn example(row: &Row) -> Result<(Vec<u8>, u8)> {
    let (mut image, mut label) = (None, None);
    for (name, field) in row.get_column_iter() {
        match (name.as_str(), field) {
            ("image", Field::Group(parts)) => {
                image = parts.get_column_iter().find_map(|(name, field)| match field {
                    Field::Bytes(bytes) if name == "bytes" => Some(bytes.data().to_vec()),
                    _ => None,
                });
            }
            ("label", field) => label = Some(digit(field).context("the label is no digit")?),
            _ => {}
        }
    }
    Ok((image.context("it has no image.bytes")?, label.context("it has no label")?))
}

/// A label in an integer column of any width.
fn digit(field: &Field) -> Option<u8> {
    match field {
        Field::Byte(x) => (*x).try_into().ok(),
        Field::Short(x) => (*x).try_into().ok(),
        Field::Int(x) => (*x).try_into().ok(),
        Field::Long(x) => (*x).try_into().ok(),
        Field::UByte(x) => Some(*x),
        Field::UShort(x) => (*x).try_into().ok(),
        Field::UInt(x) => (*x).try_into().ok(),
        Field::ULong(x) => (*x).try_into().ok(),
        _ => None,
    }
}

/// The pixels [side^2] of a grey picture in PNG format.
fn decoded(png: &[u8], side: usize) -> Result<Vec<u8>> {
    let limits = png::Limits { bytes: PNG_BYTES };
    let mut reader =
        png::Decoder::new_with_limits(Cursor::new(png), limits).read_info().context("its image is no PNG file")?;
    let info = reader.info();
    let (size, kind) = ((info.width as usize, info.height as usize), (info.color_type, info.bit_depth));
    if size != (side, side) || kind != (png::ColorType::Grayscale, png::BitDepth::Eight) {
        bail!(
            "its image is {} x {} in {:?} of {:?} bits, not {side} x {side} in 8-bit grey",
            size.0,
            size.1,
            kind.0,
            kind.1
        );
    }
    let mut pixels = vec![0; side * side];
    reader.next_frame(&mut pixels).context("its image is damaged")?;
    Ok(pixels)
}
