//! SHA-256 of files and weights.

use std::fmt;
use std::io::Read;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The first eight bytes of a SHA-256, in hexadecimal: detects damage and mistakes, not tampering.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub u64);

impl Digest {
    /// Digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::finish(Sha256::new_with_prefix(bytes))
    }

    /// Digest of the next `len` bytes of `reader`, streamed. Fails if it ends early.
    pub fn of_reader(reader: &mut dyn Read, len: u64) -> Result<Self> {
        let mut hash = Sha256::new();
        if feed(&mut hash, &mut reader.take(len))? < len {
            bail!("it ends too early");
        }
        Ok(Self::finish(hash))
    }

    /// Digest of a sequence of digests.
    pub fn of_digests(digests: &[Self]) -> Self {
        let mut hash = Sha256::new();
        digests.iter().for_each(|d| hash.update(d.0.to_be_bytes()));
        Self::finish(hash)
    }

    fn finish(hash: Sha256) -> Self {
        let bytes = hash.finalize();
        Digest(bytes.iter().take(8).fold(0, |digest, byte| digest << 8 | u64::from(*byte)))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u64::from_str_radix(&text, 16).map(Digest)
    }
}

/// SHA-256 of the rest of `reader`, in hexadecimal.
pub fn sha256(reader: &mut dyn Read) -> Result<String> {
    let mut hash = Sha256::new();
    feed(&mut hash, reader)?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Hashes the rest of `reader`; returns its length in bytes.
pub fn feed(hash: &mut Sha256, reader: &mut dyn Read) -> Result<u64> {
    let (mut buffer, mut bytes) = (vec![0u8; 1 << 18], 0);
    loop {
        let n = match reader.read(&mut buffer) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if n == 0 {
            return Ok(bytes);
        }
        hash.update(&buffer[..n]);
        bytes += n as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::hash::sha256;

    /// FIPS 180-2, appendix B.1.
    #[test]
    fn digests_are_sha_256s() -> Result<()> {
        assert_eq!(sha256(&mut "abc".as_bytes())?, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(Digest::of(b"abc").to_string(), "ba7816bf8f01cfea");
        assert_eq!(Digest::try_from("ba7816bf8f01cfea".to_string())?, Digest::of(b"abc"));
        Ok(())
    }
}
