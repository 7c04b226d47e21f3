// An engine on whichever of the vendors the program was built with.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "command.hpp"
#include "nst/stylizer.hpp"

namespace programs {

/// --engine, --device, --precision and --threads, which both programs have.
std::vector<Option> engine_options();

/// Throws UsageError where the options contradict each other or this build, and what the vendors' Stylizers do.
std::unique_ptr<nst::Stylizer> open_engine(const Arguments& arguments);

}  // namespace programs
