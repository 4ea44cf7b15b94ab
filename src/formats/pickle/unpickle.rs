//! The tensors of a pickled state dict.

use anyhow::{Context, Result, bail};

use super::machine::{Id, Machine, Object};
use crate::base::text::quoted;

/// An entry of the outermost dict that is a tensor: its name and its description, or the name of an unsupported type.
pub type NamedTensor = (String, Result<Strided, String>);

/// A strided view of a storage.
#[derive(Clone, Debug, PartialEq)]
pub struct Strided {
    /// The class of the storage: `torch.FloatStorage`.
    pub class: String,
    /// The storage's name in the archive.
    pub storage: String,
    /// The number of elements of the storage, according to the pickle.
    pub numbers: usize,
    /// The index of the tensor's first number.
    pub first: usize,
    /// Slowest dimension first.
    pub shape: Vec<usize>,
    /// The stride of each dimension, in numbers.
    pub stride: Vec<usize>,
}

/// The tensors in a pickled dict. Fails on damage and on unsupported opcodes.
pub fn tensors(pickle: &[u8]) -> Result<Vec<NamedTensor>> {
    let mut machine = Machine::new(pickle);
    let root = machine.run()?;
    let Object::Dict(entries) = machine.object(root) else {
        bail!("its pickle is not a dict of tensors; it must be a state dict as save_pretrained writes it");
    };
    let mut listed = Vec::new();
    for (key, value) in entries {
        let Object::Text(text_range) = machine.object(*key) else { continue };
        let name = machine.text(*text_range);
        if let Some(found) =
            machine.tensor(*value, true).with_context(|| format!("tensor {} cannot be read", quoted(name)))?
        {
            listed.push((name.to_string(), found));
        }
    }
    Ok(listed)
}

impl Machine<'_> {
    /// The tensor that a call of a `torch._utils` function rebuilds; None for anything else.
    fn tensor(&self, id: Id, may_be_parameter: bool) -> Result<Option<Result<Strided, String>>> {
        let Object::Call(class, arguments) = self.object(id) else { return Ok(None) };
        let (class, arguments) = (self.class(*class)?, self.tuple(*arguments)?);
        match (class.as_str(), arguments) {
            ("torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state", [data, ..])
                if may_be_parameter =>
            {
                self.tensor(*data, false)
            }
            ("torch._utils._rebuild_tensor", [storage, first, shape, stride]) => {
                Ok(Some(Ok(self.strided([*storage, *first, *shape, *stride])?)))
            }
            ("torch._utils._rebuild_tensor_v2", [storage, first, shape, stride, _, _, more @ ..]) => {
                // Metadata can mean, for example, that the numbers are to be negated.
                if more.iter().any(|more| !matches!(self.object(*more), Object::Plain) && !self.is_empty(*more)) {
                    return Ok(Some(Err(format!("{class} with metadata"))));
                }
                Ok(Some(Ok(self.strided([*storage, *first, *shape, *stride])?)))
            }
            ("torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2", few) => {
                bail!("{class} has only {} arguments, too few to make a tensor", few.len())
            }
            (class, _) if class.starts_with("torch.") => Ok(Some(Err(class.to_string()))),
            _ => Ok(None),
        }
    }

    fn is_empty(&self, id: Id) -> bool {
        matches!(self.object(id), Object::Dict(entries) if entries.is_empty())
    }

    fn strided(&self, [storage, first, shape, stride]: [Id; 4]) -> Result<Strided> {
        let Object::Storage(storage) = self.object(storage) else { bail!("it refers to something that is not a storage") };
        let [kind, class, key, _, numbers, ..] = self.tuple(*storage)? else { bail!("its storage has too few arguments") };
        let (Object::Text(kind), Object::Text(key)) = (self.object(*kind), self.object(*key)) else {
            bail!("its storage has no name");
        };
        if self.text(*kind) != "storage" {
            bail!("its storage is a {}", quoted(self.text(*kind)));
        }
        let sizes = |id: Id| self.tuple(id)?.iter().map(|id| self.size(*id)).collect::<Result<Vec<usize>>>();
        let (shape, stride) = (sizes(shape)?, sizes(stride)?);
        if shape.len() != stride.len() || shape.len() > 64 {
            bail!("it has {} dimensions and {} strides", shape.len(), stride.len());
        }
        Ok(Strided {
            class: self.class(*class)?,
            storage: self.text(*key).into(),
            numbers: self.size(*numbers)?,
            first: self.size(first)?,
            shape,
            stride,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(pickle: &[u8]) -> String {
        format!("{:#}", tensors(pickle).unwrap_err())
    }

    /// `{"w": torch.zeros(2, 3)}` as PyTorch 2 writes it, and as short as possible.
    #[test]
    fn a_state_dict_is_its_tensors() -> Result<()> {
        let plain = b"\x80\x02}q\x00X\x01\x00\x00\x00wq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02((X\x07\x00\x00\x00storageq\x03ctorch\nFloatStorage\nq\x04X\x01\x00\x00\x000q\x05X\x03\x00\x00\x00cpuq\x06K\x06tq\x07QK\x00K\x02K\x03\x86q\x08K\x03K\x01\x86q\x09\x89ccollections\nOrderedDict\nq\x0a)Rq\x0btq\x0cRq\x0ds.";
        let listed = tensors(plain)?;
        let expected = Strided {
            class: "torch.FloatStorage".into(),
            storage: "0".into(),
            numbers: 6,
            first: 0,
            shape: vec![2, 3],
            stride: vec![3, 1],
        };
        assert_eq!(listed, [("w".to_string(), Ok(expected))]);
        for cut in 0..plain.len() {
            assert!(tensors(&plain[..cut]).is_err(), "{cut}");
        }
        Ok(())
    }

    #[test]
    fn hostile_pickles_are_errors() {
        // A tensor without arguments.
        let short = b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n)Rs.";
        assert_eq!(
            error(short),
            "tensor \"w\" cannot be read: torch._utils._rebuild_tensor_v2 has only 0 arguments, too few to make a tensor"
        );
        // Tuples nested 100,000 deep must not overflow the stack.
        let deep = [&b"\x80\x02)"[..], &[0x85].repeat(100_000), b"."].concat();
        assert!(error(&deep).starts_with("its pickle is not a dict of tensors"));
        // Lists of ten references to the last list, repeatedly: nothing is copied.
        let mut memo = b"\x80\x02(lq\x00".to_vec();
        for i in 0..40u8 {
            memo.extend(b"(");
            memo.extend([b'h', i].repeat(10));
            memo.extend([b't', b'q', i + 1]);
        }
        memo.push(b'.');
        assert!(error(&memo).starts_with("its pickle is not a dict of tensors"));
        // A huge memo index, and a pop from an empty stack.
        assert!(error(b"\x80\x02Nr\xff\xff\xff\xff.").contains("it remembers a 4294967295th object"));
        assert!(error(b"\x80\x02\x87.").contains("at byte 2: its stack is empty"));
        assert!(error(b"\x80\x02N(R.").contains("its stack is empty"));
        // A call that would execute code.
        assert!(error(b"cos\nsystem\n(S'id'\ntR.").contains("a state dict does not use the operation 0x53"));
    }
}
