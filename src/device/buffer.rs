//! Buffers of numbers in f32, bf16 or f16, in main memory.

use anyhow::{Result, anyhow, bail};
use candle_core::DType;
use half::{bf16, f16};

use super::element::Element;

/// Numbers in their storage precision.
#[derive(Clone, Debug, PartialEq)]
pub enum Buffer {
    /// 4 bytes each.
    F32(Vec<f32>),
    /// 2 bytes each: 7 bits of fraction.
    Bf16(Vec<bf16>),
    /// 2 bytes each: 10 bits of fraction.
    F16(Vec<f16>),
}

/// A borrowed [`Buffer`].
#[derive(Clone, Copy, Debug)]
pub enum View<'a> {
    /// As [`Buffer::F32`].
    F32(&'a [f32]),
    /// As [`Buffer::Bf16`].
    Bf16(&'a [bf16]),
    /// As [`Buffer::F16`].
    F16(&'a [f16]),
}

/// A mutably borrowed [`Buffer`].
#[derive(Debug)]
pub enum ViewMut<'a> {
    /// As [`Buffer::F32`].
    F32(&'a mut [f32]),
    /// As [`Buffer::Bf16`].
    Bf16(&'a mut [bf16]),
    /// As [`Buffer::F16`].
    F16(&'a mut [f16]),
}

/// `each_precision!(View, view, numbers => body)`: evaluates the body with `numbers` in their storage precision. The first
/// argument names the enum: [`Buffer`], [`View`] or [`ViewMut`].
#[macro_export]
macro_rules! each_precision {
    ($kind:ident, $value:expr, $numbers:ident => $body:expr) => {
        match $value {
            $kind::F32($numbers) => $body,
            $kind::Bf16($numbers) => $body,
            $kind::F16($numbers) => $body,
        }
    };
}

impl Buffer {
    /// `len` zeros. Fails if memory is short, or `dtype` is not f32, bf16 or f16.
    pub fn zeros(dtype: DType, len: usize) -> Result<Self> {
        Ok(match dtype {
            DType::F32 => Buffer::F32(zeros(len)?),
            DType::BF16 => Buffer::Bf16(zeros(len)?),
            DType::F16 => Buffer::F16(zeros(len)?),
            other => bail!("weights are stored in f32, f16 or bf16, not in {other:?}"),
        })
    }

    /// Storage precision.
    pub fn dtype(&self) -> DType {
        match self {
            Buffer::F32(_) => DType::F32,
            Buffer::Bf16(_) => DType::BF16,
            Buffer::F16(_) => DType::F16,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        each_precision!(Buffer, self, numbers => numbers.len())
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as bytes, in native byte order.
    pub fn bytes(&self) -> &[u8] {
        each_precision!(Buffer, self, numbers => bytemuck::cast_slice(numbers))
    }

    /// The elements.
    pub fn view(&self) -> View<'_> {
        match self {
            Buffer::F32(numbers) => View::F32(numbers),
            Buffer::Bf16(numbers) => View::Bf16(numbers),
            Buffer::F16(numbers) => View::F16(numbers),
        }
    }

    /// The elements, for writing.
    pub fn view_mut(&mut self) -> ViewMut<'_> {
        match self {
            Buffer::F32(numbers) => ViewMut::F32(numbers),
            Buffer::Bf16(numbers) => ViewMut::Bf16(numbers),
            Buffer::F16(numbers) => ViewMut::F16(numbers),
        }
    }
}

/// `len` zeros. Fails if memory is short.
pub fn zeros<T: Element>(len: usize) -> Result<Vec<T>> {
    bytemuck::try_zeroed_vec(len).map_err(|()| {
        let bytes = len.saturating_mul(size_of::<T>()) as u64;
        anyhow!("there is not enough memory for another tensor of {}", crate::base::memory::human(bytes))
    })
}

/// An [`Element`] that a [`Buffer`] can hold.
pub trait BufferElement: Element {
    /// Wraps the numbers in a buffer without a copy.
    fn buffer(numbers: Vec<Self>) -> Buffer;
}

impl BufferElement for f32 {
    fn buffer(numbers: Vec<Self>) -> Buffer {
        Buffer::F32(numbers)
    }
}

impl BufferElement for bf16 {
    fn buffer(numbers: Vec<Self>) -> Buffer {
        Buffer::Bf16(numbers)
    }
}

impl BufferElement for f16 {
    fn buffer(numbers: Vec<Self>) -> Buffer {
        Buffer::F16(numbers)
    }
}
