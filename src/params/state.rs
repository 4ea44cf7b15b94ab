//! State of rules and estimators between steps, visited as named buffers.

use anyhow::Result;
use clap::ValueEnum;
use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::device::cpu::StateSlice;
use crate::device::{Buffer, ViewMut};

/// How a rule's moments are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateDtype {
    /// 4 bytes per number.
    #[default]
    F32,
    /// 2 bytes per number, stochastic rounding.
    Bf16,
}

/// A borrowed buffer of state.
#[derive(Debug)]
pub enum Slot<'a> {
    /// Moments, or weights.
    F32(&'a mut [f32]),
    /// Moments, or weights.
    Bf16(&'a mut [bf16]),
    /// Weights.
    F16(&'a mut [f16]),
    /// Scalars, of variable number.
    F64(&'a mut Vec<f64>),
    /// Seeds and counts, of variable number.
    U64(&'a mut Vec<u64>),
}

/// Called with the name and buffer of each piece of state: to measure, save or restore it.
pub type Visit<'a> = dyn FnMut(&str, Slot<'_>) -> Result<()> + 'a;

impl<'a> Slot<'a> {
    /// A weight's elements, or a moment's.
    pub(super) fn of(numbers: &'a mut ViewMut<'_>) -> Self {
        match numbers {
            ViewMut::F32(x) => Slot::F32(x),
            ViewMut::Bf16(x) => Slot::Bf16(x),
            ViewMut::F16(x) => Slot::F16(x),
        }
    }

    fn of_buffer(buffer: &'a mut Buffer) -> Self {
        match buffer {
            Buffer::F32(x) => Slot::F32(x),
            Buffer::Bf16(x) => Slot::Bf16(x),
            Buffer::F16(x) => Slot::F16(x),
        }
    }

    /// The elements as bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        match self {
            Slot::F32(x) => bytemuck::cast_slice_mut(x),
            Slot::Bf16(x) => bytemuck::cast_slice_mut(x),
            Slot::F16(x) => bytemuck::cast_slice_mut(x),
            Slot::F64(x) => bytemuck::cast_slice_mut(x),
            Slot::U64(x) => bytemuck::cast_slice_mut(x),
        }
    }

    /// Resizes a slot of variable length to `bytes`; false if the length is fixed and differs.
    pub fn resize(&mut self, bytes: usize) -> bool {
        match self {
            Slot::F64(x) => x.resize(bytes / 8, 0.0),
            Slot::U64(x) => x.resize(bytes / 8, 0),
            _ => {}
        }
        self.bytes().len() == bytes
    }

    /// Chunks of `len` elements for a fused pass. Panics unless the slot holds moments.
    pub(super) fn chunks(&mut self, len: usize) -> Vec<StateSlice<'_>> {
        match self {
            Slot::F32(x) => x.chunks_mut(len).map(StateSlice::F32).collect(),
            Slot::Bf16(x) => x.chunks_mut(len).map(StateSlice::Bf16).collect(),
            Slot::F16(_) | Slot::F64(_) | Slot::U64(_) => unreachable!("a fused pass has moments for its state"),
        }
    }
}

fn zeros(len: usize, dtype: StateDtype) -> Buffer {
    match dtype {
        StateDtype::F32 => Buffer::F32(vec![0.0; len]),
        StateDtype::Bf16 => Buffer::Bf16(vec![bf16::ZERO; len]),
    }
}

/// A rule's moments: per weight `S` buffers of its length, empty if it is not trained.
pub struct State<const S: usize> {
    names: [&'static str; S],
    of_weights: Vec<(String, [Buffer; S])>,
}

impl<const S: usize> State<S> {
    pub(super) fn new<'a>(
        weights: impl Iterator<Item = (&'a str, usize)>,
        names: [&'static str; S],
        dtype: StateDtype,
    ) -> Self {
        let zeros = |(name, len): (&str, usize)| (name.to_string(), names.map(|_| zeros(len, dtype)));
        State { names, of_weights: weights.map(zeros).collect() }
    }

    pub(super) fn buffers(&mut self, weight: usize) -> [Slot<'_>; S] {
        self.of_weights[weight].1.each_mut().map(Slot::of_buffer)
    }

    /// Visits the buffers under the names `m.NAME`, for the moment m of the weight NAME.
    pub fn visit(&mut self, visit: &mut Visit) -> Result<()> {
        for (weight, buffers) in &mut self.of_weights {
            for (name, buffer) in self.names.iter().zip(buffers) {
                visit(&format!("{name}.{weight}"), Slot::of_buffer(buffer))?;
            }
        }
        Ok(())
    }
}
