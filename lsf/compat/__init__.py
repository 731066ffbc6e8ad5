"""Old command lines, configs, scripts and calculators, translated to recipes and to what lsf offers."""
