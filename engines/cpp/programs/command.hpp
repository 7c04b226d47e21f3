// How both programs read their arguments, fail and end: as nst's Python commands do.
#pragma once

#include <cstdio>
#include <map>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "nst/error.hpp"

namespace programs {

inline constexpr int done = 0, failed = 1, wrong_usage = 2, signalled = 128;  // + the signal's number

/// The command itself was wrong; nothing was attempted.
struct UsageError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// `--name VALUE`; a flag where `metavar` is empty.
struct Option {
    std::string name, metavar, help;
};

class Arguments {
  public:
    Arguments(const std::vector<std::string>& given, const std::vector<Option>& known) {
        for (std::size_t i = 0; i < given.size(); ++i) {
            if (given[i].compare(0, 2, "--") != 0) {
                positional_.push_back(given[i]);
                continue;
            }
            const std::size_t equals = given[i].find('=');
            const std::string name = given[i].substr(0, equals);
            const Option& option = find(known, name);
            if (option.metavar.empty()) {
                if (equals != std::string::npos) throw UsageError(name + " takes no value");
                values_[name] = "";
            } else if (equals != std::string::npos) {
                values_[name] = given[i].substr(equals + 1);
            } else if (++i < given.size()) {
                values_[name] = given[i];
            } else {
                throw UsageError(name + " needs a value: " + name + " " + option.metavar);
            }
        }
    }

    const std::vector<std::string>& positional() const { return positional_; }
    bool has(const std::string& name) const { return values_.count(name) != 0; }

    std::string value(const std::string& name, const std::string& otherwise) const {
        const auto found = values_.find(name);
        return found == values_.end() ? otherwise : found->second;
    }

    std::string required(const std::string& name) const {
        const std::string text = value(name, "");
        if (text.empty()) throw UsageError(name + " is missing or empty");
        return text;
    }

    /// A whole number in decimal digits, `least` to `most`.
    int number(const std::string& name, int least, int most, int otherwise) const {
        if (!has(name)) return otherwise;
        return parse_number(value(name, ""), name, least, most);
    }

    static int parse_number(const std::string& text, const std::string& what, int least, int most) {
        const bool digits =
            !text.empty() && text.size() < 8 && text.find_first_not_of("0123456789") == std::string::npos;
        const int number = digits ? std::stoi(text) : least - 1;
        if (number < least || number > most) {
            throw UsageError(what + ": '" + text + "' given, expected a whole number, " + std::to_string(least) + ".." +
                             std::to_string(most));
        }
        return number;
    }

  private:
    static const Option& find(const std::vector<Option>& known, const std::string& name) {
        for (const Option& option : known) {
            if (option.name == name) return option;
        }
        throw UsageError("unknown option " + name);
    }

    std::vector<std::string> positional_;
    std::map<std::string, std::string> values_;
};

inline std::string help(const std::string& usage, const std::string& description, const std::vector<Option>& options) {
    std::string text = "usage: " + usage + "\n\n" + description + "\n\noptions:\n";
    for (const Option& option : options) {
        std::string left = "  " + option.name + (option.metavar.empty() ? "" : " " + option.metavar);
        left.resize(left.size() < 24 ? 24 : left.size() + 2, ' ');
        text += left + option.help + "\n";
    }
    return text;
}

inline void complain(const std::string& program, const std::string& message) {
    std::fprintf(stderr, "%s: error: %s\n", program.c_str(), message.c_str());
}

/// Runs `work` and turns every foreseen failure into one line on stderr and an exit code.
template <class Work>
int run_command(const std::string& program, Work&& work) {
    try {
        return work();
    } catch (const UsageError& error) {
        complain(program, std::string(error.what()) + " (see " + program + " --help)");
        return wrong_usage;
    } catch (const nst::Error& error) {
        complain(program, error.what());
        const bool usage = error.code() == nst::Code::option_invalid;
        return usage ? wrong_usage : failed;
    } catch (const std::bad_alloc&) {
        complain(program, "out of memory. Close other programs, or give it less to do at once");
    } catch (const std::exception& error) {
        complain(program, error.what());
    }
    return failed;
}

}  // namespace programs
