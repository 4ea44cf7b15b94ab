//! Activations on a device, f32: what models pass from operation to operation.
//!
//! The CPU's are candle tensors, whose graph records operations for a backward pass. Another device is another variant, and the compiler
//! names every place that has to know of it.

use anyhow::{Context, Result};
use candle_core::{D, Device, Tensor, Var};

/// Rows of numbers [rows, width], or numbers alone [len], in f32.
#[derive(Clone, Debug)]
pub enum Activations {
    /// On the CPU.
    Cpu(Tensor),
}

impl Activations {
    /// Of these numbers.
    pub fn new(numbers: Vec<f32>, shape: &[usize]) -> Result<Self> {
        Ok(Activations::Cpu(Tensor::from_vec(numbers, shape, &Device::Cpu)?))
    }

    /// What the CPU makes of a tensor.
    pub fn map(&self, on_cpu: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let Activations::Cpu(x) = self;
        on_cpu(x).map(Activations::Cpu)
    }

    /// What the CPU makes of two tensors.
    pub fn zip(&self, other: &Self, on_cpu: impl FnOnce(&Tensor, &Tensor) -> Result<Tensor>) -> Result<Self> {
        let (Activations::Cpu(x), Activations::Cpu(y)) = (self, other);
        on_cpu(x, y).map(Activations::Cpu)
    }

    /// How many rows there are.
    pub fn num_rows(&self) -> Result<usize> {
        let Activations::Cpu(x) = self;
        Ok(x.dim(0)?)
    }

    /// The rows `rows`, in that order.
    pub fn select(&self, rows: &[u32]) -> Result<Self> {
        self.map(|x| Ok(x.index_select(&Tensor::new(rows, x.device())?, 0)?))
    }

    /// The columns from `first` on, so many.
    pub fn columns(&self, first: usize, count: usize) -> Result<Self> {
        self.map(|x| Ok(x.narrow(1, first, count)?))
    }

    /// The same rows so many times, one after the other.
    pub fn repeated(&self, times: usize) -> Result<Self> {
        self.map(|x| Ok(Tensor::cat(&vec![x; times], 0)?))
    }

    /// These side by side.
    pub fn side_by_side(all: &[Self]) -> Result<Self> {
        let tensors: Vec<&Tensor> = all.iter().map(|Activations::Cpu(x)| x).collect();
        Ok(Activations::Cpu(Tensor::cat(&tensors, 1)?))
    }

    /// self + other
    pub fn plus(&self, other: &Self) -> Result<Self> {
        self.zip(other, |x, y| Ok((x + y)?))
    }

    /// factor * self
    pub fn scaled(&self, factor: f64) -> Result<Self> {
        self.map(|x| Ok((x * factor)?))
    }

    /// The inner product of each row with the other's: [rows].
    pub fn row_dots(&self, other: &Self) -> Result<Self> {
        self.zip(other, |x, y| Ok((x * y)?.sum(D::Minus1)?))
    }

    /// Zeros of the same shape.
    pub fn zeros_like(&self) -> Result<Self> {
        self.map(|x| Ok(x.zeros_like()?))
    }

    /// With `others`, a row for each of `rows`, added to those rows.
    pub fn with_rows_added(&self, rows: &[u32], others: &Self) -> Result<Self> {
        self.zip(others, |x, y| Ok(x.index_add(&Tensor::new(rows, x.device())?, y, 0)?))
    }

    /// All numbers, row by row.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        let Activations::Cpu(x) = self;
        Ok(x.flatten_all()?.to_vec1()?)
    }

    /// The numbers as a variable, whose gradient can be asked for.
    pub fn variable(&self) -> Result<Variable> {
        let Activations::Cpu(x) = self;
        Ok(Variable(Var::from_tensor(x)?))
    }

    /// Walks the graph of these activations back from their gradient `upstream`: weights gather theirs on the way.
    pub fn walk_back(&self, upstream: &Self) -> Result<()> {
        let (Activations::Cpu(output), Activations::Cpu(upstream)) = (self, upstream);
        (output * upstream)?.sum_all()?.backward()?;
        Ok(())
    }
}

/// Activations that a graph begins from.
pub struct Variable(Var);

impl Variable {
    /// Its numbers; what is computed of them is recorded.
    pub fn activations(&self) -> Activations {
        Activations::Cpu(self.0.as_tensor().clone())
    }

    /// Its gradient, from that of `output`, which was computed of it. Holds no graph.
    pub fn gradient(&self, output: &Activations, upstream: &Activations) -> Result<Activations> {
        let (Activations::Cpu(output), Activations::Cpu(upstream)) = (output, upstream);
        let mut gradients = (output * upstream)?.sum_all()?.backward()?;
        let gradient = gradients.remove(&self.0).context("a block's output does not depend on its input")?;
        Ok(Activations::Cpu(gradient.detach()))
    }
}
