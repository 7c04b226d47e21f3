// Ctrl-C and kill, without handlers that interrupt whatever runs.
#pragma once

#include <csignal>
#include <cstdio>
#include <thread>

#ifdef _WIN32
#include <fcntl.h>
#include <io.h>
#else
#include <unistd.h>
#endif

namespace programs {

#ifdef _WIN32

/// Windows ends the process by itself; its standard streams must be told not to change line ends.
template <class Action>
void on_signal(Action&&) {}

inline void prepare_streams() {
    _setmode(_fileno(stdin), _O_BINARY);
    _setmode(_fileno(stdout), _O_BINARY);
}

inline bool is_terminal(std::FILE* stream) { return _isatty(_fileno(stream)) != 0; }

#else

/// Calls `action(number)` on a thread of its own when SIGINT or SIGTERM arrives. Call it before any other thread
/// starts: they inherit that both are blocked.
template <class Action>
void on_signal(Action action) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    std::thread([set, action] {
        int number = 0;
        if (sigwait(&set, &number) == 0) action(number);
    }).detach();
}

/// A reader that leaves is an error of fwrite, not a silent death.
inline void prepare_streams() { std::signal(SIGPIPE, SIG_IGN); }

inline bool is_terminal(std::FILE* stream) { return isatty(fileno(stream)) != 0; }

#endif

}  // namespace programs
