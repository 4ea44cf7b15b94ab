//! Activations on a device, in f32.
//!
//! On the CPU they are candle tensors, whose graph records operations for the backward pass. Another device would be another
//! variant; exhaustive matches then show every place to extend.

use anyhow::{Context, Result};
use candle_core::{D, Device, Tensor, Var};

/// Activations [rows, width] or [len], f32.
#[derive(Clone, Debug)]
pub enum Activations {
    /// On the CPU.
    Cpu(Tensor),
}

impl Activations {
    /// Activations of this shape. Fails if the number of elements differs.
    pub fn new(numbers: Vec<f32>, shape: &[usize]) -> Result<Self> {
        Ok(Activations::Cpu(Tensor::from_vec(numbers, shape, &Device::Cpu)?))
    }

    /// Applies a CPU operation.
    pub fn map(&self, on_cpu: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let Activations::Cpu(x) = self;
        on_cpu(x).map(Activations::Cpu)
    }

    /// Applies a CPU operation on two activations.
    pub fn zip(&self, other: &Self, on_cpu: impl FnOnce(&Tensor, &Tensor) -> Result<Tensor>) -> Result<Self> {
        let (Activations::Cpu(x), Activations::Cpu(y)) = (self, other);
        on_cpu(x, y).map(Activations::Cpu)
    }

    /// The first dimension.
    pub fn num_rows(&self) -> Result<usize> {
        let Activations::Cpu(x) = self;
        Ok(x.dim(0)?)
    }

    /// The given rows, in that order: [rows.len(), width].
    pub fn select(&self, rows: &[u32]) -> Result<Self> {
        self.map(|x| Ok(x.index_select(&Tensor::new(rows, x.device())?, 0)?))
    }

    /// `count` columns from `first`: [rows, count].
    pub fn columns(&self, first: usize, count: usize) -> Result<Self> {
        self.map(|x| Ok(x.narrow(1, first, count)?))
    }

    /// `times` copies, one below the other: [times * rows, width].
    pub fn repeated(&self, times: usize) -> Result<Self> {
        self.map(|x| Ok(Tensor::cat(&vec![x; times], 0)?))
    }

    /// Concatenates along the columns.
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

    /// The inner product of each row with the same row of `other`: [rows].
    pub fn row_dots(&self, other: &Self) -> Result<Self> {
        self.zip(other, |x, y| Ok((x * y)?.sum(D::Minus1)?))
    }

    /// Zeros of the same shape.
    pub fn zeros_like(&self) -> Result<Self> {
        self.map(|x| Ok(x.zeros_like()?))
    }

    /// Adds row i of `others` to row `rows[i]`.
    pub fn with_rows_added(&self, rows: &[u32], others: &Self) -> Result<Self> {
        self.zip(others, |x, y| Ok(x.index_add(&Tensor::new(rows, x.device())?, y, 0)?))
    }

    /// All numbers in row-major order.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        let Activations::Cpu(x) = self;
        Ok(x.flatten_all()?.to_vec1()?)
    }

    /// A copy as a variable, a root of the graph that is differentiated.
    pub fn variable(&self) -> Result<Variable> {
        let Activations::Cpu(x) = self;
        Ok(Variable(Var::from_tensor(x)?))
    }

    /// Backward pass from the gradient `upstream` of these activations; weights accumulate their gradients in the recorder.
    pub fn walk_back(&self, upstream: &Self) -> Result<()> {
        let (Activations::Cpu(output), Activations::Cpu(upstream)) = (self, upstream);
        (output * upstream)?.sum_all()?.backward()?;
        Ok(())
    }
}

/// Activations at the root of a graph.
pub struct Variable(Var);

impl Variable {
    /// The activations; operations on them are recorded.
    pub fn activations(&self) -> Activations {
        Activations::Cpu(self.0.as_tensor().clone())
    }

    /// The gradient with respect to this variable, given that of `output`, detached from the graph. Fails if `output` does
    /// not depend on the variable.
    pub fn gradient(&self, output: &Activations, upstream: &Activations) -> Result<Activations> {
        let (Activations::Cpu(output), Activations::Cpu(upstream)) = (output, upstream);
        let mut gradients = (output * upstream)?.sum_all()?.backward()?;
        let gradient = gradients.remove(&self.0).context("a block's output does not depend on its input")?;
        Ok(Activations::Cpu(gradient.detach()))
    }
}
