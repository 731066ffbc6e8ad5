/* Pair style "lsf" for LAMMPS: models exported by lsf as TorchScript.
   Copyright (C) 2026 the authors of lsf. License: GNU GPL, version 2 or later; see the file LICENSE.md.

   The model sees the whole cell: every atom once, with unwrapped coordinates, and the neighbours within its
   cutoff as pairs of owned atoms with a lattice translation. Strain derivatives are made inside the file. */

#include "pair_lsf.h"

#include <torch/csrc/autograd/grad_mode.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/script.h>

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "force.h"
#include "input.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "update.h"
#include "utils.h"
#include "variable.h"

#include <cmath>
#include <cstdlib>
#include <cstring>

#ifdef __GLIBC__
#include <malloc.h>
#include <unistd.h>
#endif

using namespace LAMMPS_NS;

namespace {

const int PER_ATOM = 2;       // the model's rule for formal charges: read from atom->q
const int N_EXTRA = 8;

const char *const SYMBOLS[] = {
    "X",  "H",  "He", "Li", "Be", "B",  "C",  "N",  "O",  "F",  "Ne", "Na", "Mg", "Al", "Si", "P",  "S",
    "Cl", "Ar", "K",  "Ca", "Sc", "Ti", "V",  "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As",
    "Se", "Br", "Kr", "Rb", "Sr", "Y",  "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn",
    "Sb", "Te", "I",  "Xe", "Cs", "Ba", "La", "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho",
    "Er", "Tm", "Yb", "Lu", "Hf", "Ta", "W",  "Re", "Os", "Ir", "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po",
    "At", "Rn", "Fr", "Ra", "Ac", "Th", "Pa", "U",  "Np", "Pu"};

int atomic_number(const std::string &symbol)
{
  const int count = sizeof(SYMBOLS) / sizeof(SYMBOLS[0]);
  for (int z = 1; z < count; z++)
    if (symbol == SYMBOLS[z]) return z;
  return 0;
}

/* Tell glibc to keep freed memory, as lsf/machine/allocator.py does and with the same exceptions: tensors of a step
   would else be mapped, and cleared by the kernel, page by page in every step. */
bool keep_freed_memory()
{
#ifdef __GLIBC__
  const char *const chosen = std::getenv("LSF_ALLOCATOR");
  if (chosen && strcmp(chosen, "system") == 0) return false;
  for (char **entry = environ; *entry; entry++)
    for (const char *prefix : {"MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"})
      if (strncmp(*entry, prefix, strlen(prefix)) == 0) return false;
  return mallopt(M_MMAP_MAX, 0) && mallopt(M_TRIM_THRESHOLD, -1) && mallopt(M_TOP_PAD, 64 << 20);
#else
  return false;
#endif
}

/* The part of an error of torch that a user can act on: its last line. */
std::string reason(const std::exception &problem)
{
  std::string text = problem.what();
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.pop_back();
  const auto start = text.find_last_of('\n');
  return start == std::string::npos ? text : text.substr(start + 1);
}

}    // namespace

struct PairLSF::Model {
  torch::jit::Module module;
  std::vector<int64_t> kinds;    // by number of periodic directions; below 0 where refused
  torch::Tensor species;
};

PairLSF::PairLSF(LAMMPS *lmp) :
    Pair(lmp), model(new Model), cutoff(0.0), total_charge(0.0), total_spin(0.0), charges_are_input(false)
{
  single_enable = 0;
  restartinfo = 0;
  one_coeff = 1;
  manybody_flag = 1;
  no_virial_fdotr_compute = 1;
  centroidstressflag = CENTROID_NOTAVAIL;
  unit_convert_flag = 0;
  nextra = N_EXTRA;
  pvector = new double[N_EXTRA]();
}

PairLSF::~PairLSF()
{
  delete[] pvector;
  if (allocated) {
    memory->destroy(setflag);
    memory->destroy(cutsq);
  }
}

void PairLSF::allocate()
{
  allocated = 1;
  const int n = atom->ntypes;
  memory->create(setflag, n + 1, n + 1, "pair:setflag");
  memory->create(cutsq, n + 1, n + 1, "pair:cutsq");
  for (int i = 1; i <= n; i++)
    for (int j = 1; j <= n; j++) setflag[i][j] = 0;
}

/* pair_style lsf [field EX EY EZ] [charge Q] [spin S] */
void PairLSF::settings(int narg, char **arg)
{
  field.clear();
  total_charge = total_spin = 0.0;
  int i = 0;
  while (i < narg) {
    if (strcmp(arg[i], "field") == 0 && i + 3 < narg) {
      field.assign(arg + i + 1, arg + i + 4);
      i += 4;
    } else if (strcmp(arg[i], "charge") == 0 && i + 1 < narg) {
      total_charge = utils::numeric(FLERR, arg[i + 1], false, lmp);
      i += 2;
    } else if (strcmp(arg[i], "spin") == 0 && i + 1 < narg) {
      total_spin = utils::numeric(FLERR, arg[i + 1], false, lmp);
      i += 2;
    } else {
      error->all(FLERR, "Illegal pair_style lsf: expected pair_style lsf [field EX EY EZ] [charge Q] [spin S]");
    }
  }
}

/* pair_coeff * * FILE ELEMENT ... */
void PairLSF::coeff(int narg, char **arg)
{
  const int n = atom->ntypes;
  if (narg != 3 + n || strcmp(arg[0], "*") != 0 || strcmp(arg[1], "*") != 0)
    error->all(FLERR, "pair_coeff of pair_style lsf: expected * *, a file and {} element symbols, one per type", n);
  if (!allocated) allocate();
  try {
    torch::jit::ExtraFilesMap extra = {{"metadata.json", ""}};
    model->module = torch::jit::load(arg[2], torch::kCPU, extra);
    model->module.eval();
    if (extra["metadata.json"].find("lsf-torchscript") == std::string::npos)
      throw std::runtime_error("not a model exported by lsf");
    cutoff = model->module.attr("cutoff").toDouble();
    charges_are_input = model->module.attr("rule").toInt() == PER_ATOM;
    model->kinds = model->module.attr("kinds").toIntVector();
    model->species = model->module.attr("species").toTensor();
    // the mesh of a cell that moves stays while it is fit: the energy has no jumps
    const auto planner = model->module.attr("planner").toModule();
    if (planner.hasattr("meshes")) planner.attr("meshes").toModule().setattr("keeps", true);
    if ((total_charge != 0.0 || total_spin != 0.0) && !model->module.attr("sees_state").toBool())
      throw std::runtime_error("the model does not see a total charge or spin");
  } catch (const std::exception &problem) {
    error->all(FLERR, "pair_style lsf cannot read {}: {}", arg[2], reason(problem));
  }
  if (keep_freed_memory() && comm->me == 0)
    utils::logmesg(lmp, "pair_style lsf: freed memory stays in the process, which is faster "
                        "(LSF_ALLOCATOR=system undoes it)\n");
  numbers.assign(1, 0);
  for (int i = 0; i < n; i++) {
    const int z = atomic_number(arg[3 + i]);
    if (z == 0 || !(model->species == z).any().item<bool>())
      error->all(FLERR, "pair_style lsf: the model {} does not know the element {}", arg[2], arg[3 + i]);
    numbers.push_back(z);
  }
  for (int i = 1; i <= n; i++)
    for (int j = i; j <= n; j++) setflag[i][j] = 1;
}

void PairLSF::init_style()
{
  if (comm->nprocs != 1)
    error->all(FLERR,
               "pair_style lsf evaluates the whole cell on one MPI process: run on one, or use fix external "
               "(lsf.engines.lammps.external), which gathers the atoms");
  if (strcmp(update->unit_style, "metal") != 0)
    error->all(FLERR, "pair_style lsf works in eV and Å: expected units metal");
  if (!atom->tag_enable || atom->map_style == Atom::MAP_NONE)
    error->all(FLERR, "pair_style lsf requires atom IDs and a map: atom_modify map yes before the box is made");
  if (charges_are_input && !atom->q_flag)
    error->all(FLERR, "this model reads formal charges from atom->q: use atom_style charge or full");
  const int periodic = domain->xperiodic + domain->yperiodic + domain->zperiodic;
  if (model->kinds.at(periodic) < 0)
    error->all(FLERR, "the boundary method of this model cannot treat {} periodic directions", periodic);
  double ignored[3];
  field_now(ignored);
  neighbor->add_request(this, NeighConst::REQ_FULL);
}

/* Atoms or pairs that are missing from the neighbor list would lose their neighbors, but keep their charges.
   LAMMPS decides on exclusions after init_style, and fixes change them during a run. */
void PairLSF::refuse_exclusions()
{
  if (neighbor->exclude)
    error->all(FLERR,
               "pair_style lsf cannot leave out atoms or pairs: found neigh_modify exclude (fix gcmc with "
               "full_energy sets it, too); remove it, or delete the atoms");
  if (atom->molecular == Atom::ATOMIC || atom->nbonds == 0) return;
  for (int k = 1; k <= 3; k++)
    if (force->special_lj[k] == 0.0 && force->special_coul[k] == 0.0)
      error->all(FLERR,
                 "pair_style lsf needs all pairs of bonded atoms: expected special_bonds lj/coul 1.0 1.0 1.0");
}

double PairLSF::init_one(int i, int j)
{
  if (setflag[i][j] == 0 && setflag[j][i] == 0) error->all(FLERR, "All pair coeffs are not set");
  return cutoff;
}

/* The gradient of the potential in V/Å: the negative of the physical field. */
void PairLSF::field_now(double *gradient)
{
  for (int axis = 0; axis < 3; axis++) {
    gradient[axis] = 0.0;
    if (field.empty()) continue;
    const std::string &text = field[axis];
    if (text.rfind("v_", 0) == 0) {
      const int index = input->variable->find(text.c_str() + 2);
      if (index < 0 || !input->variable->equalstyle(index))
        error->all(FLERR, "pair_style lsf field: there is no equal-style variable {}", text.substr(2));
      gradient[axis] = -input->variable->compute_equal(index);
    } else {
      gradient[axis] = -utils::numeric(FLERR, text, false, lmp);
    }
  }
}

void PairLSF::compute(int eflag, int vflag)
{
  ev_init(eflag, vflag);
  if (vflag_atom || cvflag_atom)
    error->all(FLERR, "pair_style lsf has no per-atom virial: a Coulomb energy belongs to no single atom");

  refuse_exclusions();

  const int n = atom->nlocal;
  double **x = atom->x;
  const auto real = torch::dtype(torch::kFloat64);
  const auto whole = torch::dtype(torch::kInt64);
  const double *h = domain->h_inv;
  const double box[9] = {domain->xprd, 0.0, 0.0, domain->xy, domain->yprd, 0.0, domain->xz, domain->yz, domain->zprd};
  const bool isolated = !(domain->xperiodic || domain->yperiodic || domain->zperiodic);

  auto positions = torch::empty({n, 3}, real);
  auto types = torch::empty({n}, whole);
  auto formal = torch::empty({charges_are_input ? n : 0}, real);
  auto r = positions.accessor<double, 2>();
  auto z = types.accessor<int64_t, 1>();
  auto charge = formal.accessor<double, 1>();
  for (int i = 0; i < n; i++) {
    double unwrapped[3];
    domain->unmap(x[i], atom->image[i], unwrapped);
    for (int k = 0; k < 3; k++) r[i][k] = unwrapped[k];
    z[i] = numbers[atom->type[i]];
    if (charges_are_input) charge[i] = atom->q[i];
  }

  std::vector<int64_t> senders, receivers;
  std::vector<double> shifts;
  const double cutsq_model = cutoff * cutoff;
  for (int ii = 0; ii < list->inum; ii++) {
    const int i = list->ilist[ii];
    for (int jj = 0; jj < list->numneigh[i]; jj++) {
      const int j = list->firstneigh[i][jj] & NEIGHMASK;
      const double d[3] = {x[i][0] - x[j][0], x[i][1] - x[j][1], x[i][2] - x[j][2]};
      if (d[0] * d[0] + d[1] * d[1] + d[2] * d[2] >= cutsq_model) continue;
      const int owner = atom->map(atom->tag[j]);
      if (owner < 0 || owner >= n) error->one(FLERR, "pair_style lsf: a neighbor has no owned atom");
      // the lattice translation that the unwrapped coordinates lack
      double s[3];
      for (int k = 0; k < 3; k++) s[k] = d[k] - (r[i][k] - r[owner][k]);
      shifts.push_back(domain->xperiodic ? std::round(h[0] * s[0] + h[5] * s[1] + h[4] * s[2]) : 0.0);
      shifts.push_back(domain->yperiodic ? std::round(h[1] * s[1] + h[3] * s[2]) : 0.0);
      shifts.push_back(domain->zperiodic ? std::round(h[2] * s[2]) : 0.0);
      senders.push_back(owner);
      receivers.push_back(i);
    }
  }
  const int64_t n_edges = static_cast<int64_t>(senders.size());
  auto edges = torch::empty({2, n_edges}, whole);
  if (n_edges) {
    std::memcpy(edges.data_ptr<int64_t>(), senders.data(), n_edges * sizeof(int64_t));
    std::memcpy(edges.data_ptr<int64_t>() + n_edges, receivers.data(), n_edges * sizeof(int64_t));
  }
  auto translations = torch::zeros({n_edges, 3}, real);
  if (n_edges) std::memcpy(translations.data_ptr<double>(), shifts.data(), 3 * n_edges * sizeof(double));
  auto cell = torch::zeros({1, 3, 3}, real);
  if (!isolated) std::memcpy(cell.data_ptr<double>(), box, sizeof(box));
  auto pbc = torch::zeros({1, 3}, torch::dtype(torch::kBool));
  const int periodic[3] = {domain->xperiodic, domain->yperiodic, domain->zperiodic};
  for (int k = 0; k < 3; k++) pbc[0][k] = periodic[k] != 0;
  double gradient[3];
  field_now(gradient);
  auto external = torch::empty({1, 3}, real);
  std::memcpy(external.data_ptr<double>(), gradient, sizeof(gradient));

  c10::Dict<c10::IValue, c10::IValue> found(c10::StringType::get(), c10::TensorType::get());
  try {
    // the optimising executor compiles anew for every number of atoms and edges
    torch::jit::GraphOptimizerEnabledGuard plain(false);
    torch::AutoGradMode differentiable(true);
    found = model->module
                .forward({positions, cell, pbc, types, edges, translations, torch::zeros({n}, whole), external,
                          formal, torch::full({1}, total_charge, real), torch::full({1}, total_spin, real)})
                .toGenericDict();
  } catch (const std::exception &problem) {
    error->one(FLERR, "pair_style lsf: {}", reason(problem));
  }

  auto output = [&found](const char *name) { return found.at(name).toTensor().cpu().contiguous(); };
  auto number = [&output](const char *name) { return output(name).item<double>(); };
  const auto forces = output("forces");
  const auto f = forces.accessor<double, 2>();
  for (int i = 0; i < n; i++)
    if (!std::isfinite(f[i][0] + f[i][1] + f[i][2]))
      error->one(FLERR, "pair_style lsf: the force on atom {} is not finite; do atoms overlap?", atom->tag[i]);
  if (!std::isfinite(number("energy"))) error->one(FLERR, "pair_style lsf: the energy is not finite");
  for (int i = 0; i < n; i++)
    for (int k = 0; k < 3; k++) atom->f[i][k] += f[i][k];
  if (eflag_global) {
    eng_coul += number("energy_coulomb");
    eng_vdwl += number("energy") - number("energy_coulomb");
  }
  if (eflag_atom) {
    const auto energies = output("node_energy");
    const auto e = energies.accessor<double, 1>();
    for (int i = 0; i < n; i++) eatom[i] += e[i];
  }
  if (vflag_global) {
    const auto tensor = output("virial");
    const auto v = tensor.accessor<double, 3>();
    const int rows[6] = {0, 1, 2, 0, 0, 1}, columns[6] = {0, 1, 2, 1, 2, 2};
    for (int k = 0; k < 6; k++) virial[k] += v[0][rows[k]][columns[k]];
  }
  if (atom->q_flag && !charges_are_input) {
    const auto charges = output("partial_charges");
    const auto q = charges.accessor<double, 1>();
    for (int i = 0; i < n; i++) atom->q[i] = q[i];
  }
  const auto dipole = output("dipole");
  for (int k = 0; k < 3; k++) pvector[k] = dipole[0][k].item<double>();
  pvector[3] = number("total_charge");
  pvector[4] = number("energy_atomic");
  pvector[5] = number("energy_short_range");
  pvector[6] = number("energy_coulomb");
  pvector[7] = number("energy_field");
}
