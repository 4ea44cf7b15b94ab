//! IDX files: big-endian numbers that say type and sizes, then bytes. With or without gzip.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use flate2::read::MultiGzDecoder;

/// Bytes of a file at most; MNIST's largest has 47 million.
const MAX_BYTES: u64 = 1 << 30;

/// An array of bytes.
#[derive(Debug, PartialEq)]
pub struct Idx {
    /// Sizes of its dimensions, the slowest first.
    pub shape: Vec<usize>,
    /// As many as the shape says.
    pub bytes: Vec<u8>,
}

/// Reads the IDX file `name` in `folder`, or `name`.gz. It must have so many dimensions. An unusable file is a usage error.
pub fn read(folder: &Path, name: &str, dimensions: usize) -> Result<Idx> {
    let path = path_of(folder, name)?;
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let file = BufReader::new(file);
    let parsed = match path.extension().is_some_and(|ending| ending == "gz") {
        true => parse(&mut MultiGzDecoder::new(file), dimensions),
        false => parse(&mut { file }, dimensions),
    };
    parsed.map_err(|error| usage!("{}: {error:#}", path.display()))
}

/// The path of a file that is there as it is or with gzip.
fn path_of(folder: &Path, name: &str) -> Result<PathBuf> {
    if !folder.is_dir() {
        bail!(usage!("`data` {}: there is no such folder", folder.display()));
    }
    let paths = [folder.join(name), folder.join(format!("{name}.gz"))];
    paths.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        usage!(
            "`data` {}: it has neither {name} nor {name}.gz; MNIST is four files, train-images-idx3-ubyte, \
             train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, or the two parquet files of the hub \
             in the folder mnist",
            folder.display()
        )
    })
}

fn parse(reader: &mut dyn Read, dimensions: usize) -> Result<Idx> {
    let mut header = vec![0u8; 4 + 4 * dimensions];
    fill(reader, &mut header[..4])?;
    // Two zeros, the type (8: bytes), the number of dimensions.
    let expected = [0, 0, 8, dimensions as u8];
    if header[..4] != expected {
        bail!(
            "it begins with {:02x?}, and an IDX file of {dimensions}-dimensional bytes with {expected:02x?}",
            &header[..4]
        );
    }
    fill(reader, &mut header[4..])?;
    let sizes = header[4..].chunks_exact(4).map(|n| n.iter().fold(0u64, |size, byte| size << 8 | u64::from(*byte)));
    let shape: Vec<usize> = sizes.map(|size| size as usize).collect();
    let len = shape.iter().try_fold(1u64, |len, size| len.checked_mul(*size as u64)).filter(|len| *len <= MAX_BYTES);
    let Some(len) = len else { bail!("its header asks for {shape:?} bytes, more than MNIST ever has") };
    // One byte more: at its end gzip compares its checksum.
    let mut bytes = Vec::new();
    reader.take(len + 1).read_to_end(&mut bytes).map_err(|error| said(&error))?;
    match bytes.len() as u64 {
        found if found > len => bail!("it is longer than the {shape:?} bytes that its header says"),
        found if found < len => bail!("it ends after {found} of the {len} bytes that its header says"),
        _ => Ok(Idx { shape, bytes }),
    }
}

fn fill(reader: &mut dyn Read, to: &mut [u8]) -> Result<()> {
    reader.read_exact(to).map_err(|error| said(&error))
}

fn said(error: &std::io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::UnexpectedEof => anyhow::anyhow!("it ends too early"),
        _ => anyhow::anyhow!("it is damaged: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    /// Two images of 2 x 3, written by hand.
    const FILE: [u8; 28] = [
        0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3, //
        1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 255,
    ];

    fn zipped(bytes: &[u8]) -> Result<Vec<u8>> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes)?;
        Ok(encoder.finish()?)
    }

    /// What is read of a folder with one file.
    fn read_back(name: &str, bytes: &[u8], dimensions: usize) -> Result<Idx> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join(name), bytes)?;
        read(folder.path(), "images", dimensions)
    }

    #[test]
    fn a_file_is_read_with_and_without_gzip() -> Result<()> {
        let expected = Idx { shape: vec![2, 2, 3], bytes: FILE[16..].to_vec() };
        assert_eq!(read_back("images", &FILE, 3)?, expected);
        assert_eq!(read_back("images.gz", &zipped(&FILE)?, 3)?, expected);
        Ok(())
    }

    #[test]
    fn a_damaged_file_is_refused_by_name() -> Result<()> {
        let (gz, mut changed) = (zipped(&FILE)?, zipped(&FILE)?);
        let checksum = changed.len() - 8;
        changed[checksum] ^= 1;
        let huge = [&FILE[..4], &[255; 12], &FILE[16..]].concat();
        for (name, bytes, dimensions, said) in [
            ("images", &FILE[..20], 3, "it ends after 4 of the 12 bytes"),
            ("images", &FILE[..9], 3, "it ends too early"),
            ("images", &[&FILE[..], &[0]].concat(), 3, "it is longer than"),
            ("images", &FILE, 1, "it begins with [00, 00, 08, 03]"),
            ("images", &gz, 3, "it begins with [1f, 8b"),
            ("images", &huge, 3, "more than MNIST ever has"),
            ("images.gz", &gz[..gz.len() / 2], 3, "it ends too early"),
            ("images.gz", &gz[..gz.len() - 4], 3, "it ends too early"),
            ("images.gz", &changed, 3, "it is damaged"),
            ("images.gz", &FILE, 3, "it is damaged"),
        ] {
            let error = read_back(name, bytes, dimensions).expect_err(said);
            assert!(format!("{error:#}").contains(said), "{error:#}, not {said}");
            assert!(format!("{error:#}").contains(name) && crate::base::errors::exit_code(&error) == 2, "{error:#}");
        }
        let folder = tempfile::tempdir()?;
        let error = read(folder.path(), "images", 3).expect_err("an empty folder");
        assert!(error.to_string().contains("neither images nor images.gz"), "{error:#}");
        let error = read(&folder.path().join("none"), "images", 3).expect_err("no folder");
        assert!(error.to_string().contains("no such folder"), "{error:#}");
        Ok(())
    }
}
