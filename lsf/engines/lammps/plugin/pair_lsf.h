/* Pair style "lsf" for LAMMPS.
   Copyright (C) 2026 the authors of lsf.

   This file is free software: you can redistribute it and/or modify it under the terms of the GNU General
   Public License as published by the Free Software Foundation, either version 2 of the License, or (at your
   option) any later version. It is distributed WITHOUT ANY WARRANTY; see the file LICENSE.md. */

#ifndef LMP_PAIR_LSF_H
#define LMP_PAIR_LSF_H

#include "pair.h"

#include <memory>
#include <string>
#include <vector>

namespace LAMMPS_NS {

class PairLSF : public Pair {
 public:
  explicit PairLSF(class LAMMPS *);
  ~PairLSF() override;
  void compute(int, int) override;
  void settings(int, char **) override;
  void coeff(int, char **) override;
  void init_style() override;
  double init_one(int, int) override;

 private:
  struct Model;    // keeps torch out of this header
  std::unique_ptr<Model> model;
  double cutoff;
  std::vector<int> numbers;           // atomic number of every atom type, from 1 on
  std::vector<std::string> field;     // physical field in V/Å: numbers or variables v_name
  double total_charge, total_spin;    // for models that are told them
  bool charges_are_input;

  void allocate();
  void field_now(double *);
  void refuse_exclusions();
};

}    // namespace LAMMPS_NS

#endif
