r"""What evaluates the Fourier sums: one interface, three backends behind it.

A backend arranges the atoms and wave vectors of a batch (``Arrange``) and then evaluates the two sums of
:mod:`lsf.electrostatics.fourier.pair` any number of times (``AdjointPair``), as plain numbers: derivatives
are made once, there, from the same two sums with a higher degree. Cells, kernels, tapers and boundary
corrections are no business of a backend.

=========  =====================================================  ===========================================
backend    how                                                    for
=========  =====================================================  ===========================================
direct     matrix products of per-axis tables, exact              training batches, up to thousands of atoms
mesh       B-splines and fast Fourier transforms, to a tolerance  thousands to millions of atoms
kernel     the direct sums in one GPU kernel each, exact          CUDA devices
=========  =====================================================  ===========================================

Tensors a backend meets (float32 or float64, one dtype and device per call):

==============  ===================  =================================================================
name            shape                meaning
==============  ===================  =================================================================
fractional      (n_atoms, 3)         fractional coordinates, any period
batch           (n_atoms,) int64     structure of each atom, ascending
k_triplets      (n_k, 3) int64       half space: the first non-zero integer is positive; no zeros, no pairs ±n
k_batch         (n_k,) int64         structure of each triplet, ascending
moments         (n_atoms, n_c)       fractional moments, columns of ``multipoles.monomials(degree)``
amplitudes      (n_k, 2)             real and imaginary part
==============  ===================  =================================================================
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class AdjointPair(Protocol):
    r"""The two sums over one arrangement of atoms and wave vectors; holds no gradient.

    They are each other's transpose, :math:`\mathrm{Re}\sum_n \bar G_n F_n(m) = \sum_j m_j \cdot v_j(G)`, and
    the sums of a higher degree are exact derivatives by ``fractional`` of those of a lower one. Every degree
    from 0 to 4 (quadrupoles, two derivatives) is called for.
    """

    @property
    def n_atoms(self) -> int:
        """Number of atoms of the batch."""

    @property
    def n_k(self) -> int:
        """Number of wave vectors of the batch."""

    def sum(self, moments: Tensor, degree: int) -> Tensor:
        r"""Return type 1, (n_k, 2), of ``moments`` (n_atoms, n_monomials(degree)).

        .. math:: F_n = \sum_j \sum_{abc \le L} m_j^{abc} (-2\pi i\,n)^{abc} e^{-2\pi i\, n\cdot s_j}
        """

    def gather(self, amplitudes: Tensor, degree: int) -> Tensor:
        r"""Return type 2, (n_atoms, n_monomials(degree)), of ``amplitudes`` (n_k, 2).

        .. math:: v_j^{abc} = \mathrm{Re} \sum_n \bar G_n (-2\pi i\,n)^{abc} e^{-2\pi i\, n\cdot s_j}
        """


class Arrange(Protocol):
    """What a backend offers: arrange a batch; called without gradient."""

    def __call__(
        self, fractional: Tensor, batch: Tensor, k_triplets: Tensor, k_batch: Tensor, n_graphs: int
    ) -> AdjointPair:
        """Return the pair of sums over these atoms and wave vectors."""


class MeshTransfer(Protocol):
    r"""Spreading to and interpolating from one structure's mesh, where a kernel may replace plain torch.

    With :math:`w_j^{abc}(g) = \partial_s^{abc} \prod_x M_p(s_{jx} N_x - g_x)`, M_p the centred B-spline of
    order p on the periodic mesh. The two are each other's transpose; both are called without gradient.
    """

    def spread(self, moments: Tensor, degree: int) -> Tensor:
        """Return ``Σ_j Σ_abc m_j^abc w_j^abc(g)``, shape (N_1, N_2, N_3)."""

    def interpolate(self, mesh: Tensor, degree: int) -> Tensor:
        """Return ``Σ_g mesh(g) w_j^abc(g)``, (n_atoms, n_monomials(degree))."""
