/* Registers pair style "lsf" when LAMMPS loads this library.
   Copyright (C) 2026 the authors of lsf. License: GNU GPL, version 2 or later; see the file LICENSE.md. */

#include "pair_lsf.h"

#include "lammps.h"

using namespace LAMMPS_NS;

/* LAMMPS's interface for plugins, declared here because installed headers lack lammpsplugin.h. */
extern "C" {

typedef void *(lammpsplugin_factory1)(void *);
typedef void *(lammpsplugin_factory2)(void *, int, char **);

typedef struct {
  const char *version;
  const char *style;
  const char *name;
  const char *info;
  const char *author;
  union {
    lammpsplugin_factory1 *v1;
    lammpsplugin_factory2 *v2;
  } creator;
  void *handle;
} lammpsplugin_t;

typedef void (*lammpsplugin_regfunc)(lammpsplugin_t *, void *);

void lammpsplugin_init(void *, void *, void *);
}

static void *create(void *lmp)
{
  return static_cast<Pair *>(new PairLSF(static_cast<LAMMPS *>(lmp)));
}

void lammpsplugin_init(void *lmp, void *handle, void *regfunc)
{
  lammpsplugin_t plugin = {};
  plugin.version = LSF_LAMMPS_VERSION;
  plugin.style = "pair";
  plugin.name = "lsf";
  plugin.info = "pair style for models exported by lsf";
  plugin.author = "the authors of lsf";
  plugin.creator.v1 = create;
  plugin.handle = handle;
  reinterpret_cast<lammpsplugin_regfunc>(regfunc)(&plugin, lmp);
}
