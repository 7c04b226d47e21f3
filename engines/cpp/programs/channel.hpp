// Hands values from one thread to another.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

namespace programs {

template <class Value>
class Channel {
  public:
    void push(Value value) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            values_.push_back(std::move(value));
        }
        changed_.notify_one();
    }

    /// Waits for the next value; nothing once the channel is closed and empty.
    std::optional<Value> pop() {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [this] { return closed_ || !values_.empty(); });
        if (values_.empty()) return std::nullopt;
        std::optional<Value> value(std::move(values_.front()));
        values_.pop_front();
        return value;
    }

    /// No more will come.
    void close() {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            closed_ = true;
        }
        changed_.notify_all();
    }

  private:
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<Value> values_;
    bool closed_ = false;
};

}  // namespace programs
