// As much of JSON (RFC 8259) as metadata needs: reading, into plain values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace nst::json {

/// One value; of its members only those of its kind mean something.
struct Value {
    enum class Kind { null, boolean, number, string, array, object };

    Kind kind = Kind::null;
    bool boolean = false;
    double number = 0;
    bool whole = false;             // a number written without fraction and exponent
    std::string text;               // of a string, UTF-8
    std::vector<std::string> keys;  // of an object, in its order
    std::vector<Value> items;       // of an array, or the values that belong to `keys`

    /// The value of a key, the last where it is repeated; null where there is none.
    const Value* find(const std::string& key) const {
        for (std::size_t i = keys.size(); i-- > 0;) {
            if (keys[i] == key) return &items[i];
        }
        return nullptr;
    }
};

class Reader {
  public:
    explicit Reader(const std::string& text) : text_(text) {}

    Value document() {
        Value value = read(0);
        skip_space();
        if (at_ != text_.size()) fail("something stands after its end");
        return value;
    }

  private:
    static constexpr int deepest = 64;  // nested arrays and objects; recursion must end somewhere

    [[noreturn]] void fail(const std::string& what) const {
        throw std::invalid_argument("it is not JSON: " + what + " (byte " + std::to_string(at_) + ")");
    }

    void skip_space() {
        while (at_ < text_.size() && std::string(" \t\r\n").find(text_[at_]) != std::string::npos) ++at_;
    }

    char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

    bool take(char expected) {
        if (peek() != expected) return false;
        ++at_;
        return true;
    }

    bool take_word(const std::string& word) {
        if (text_.compare(at_, word.size(), word) != 0) return false;
        at_ += word.size();
        return true;
    }

    Value read(int depth) {
        if (depth > deepest) fail("it is nested too deeply");
        skip_space();
        Value value;
        if (peek() == '{' || peek() == '[') return read_items(depth);
        if (peek() == '"') {
            value.kind = Value::Kind::string;
            value.text = read_string();
        } else if (take_word("true") || take_word("false")) {
            value.kind = Value::Kind::boolean;
            value.boolean = text_[at_ - 2] == 'u';  // tr-u-e; fal-s-e
        } else if (!take_word("null")) {
            read_number(value);
        }
        return value;
    }

    Value read_items(int depth) {
        Value value;
        const bool object = take('{');
        if (!object) ++at_;  // [
        value.kind = object ? Value::Kind::object : Value::Kind::array;
        const char end = object ? '}' : ']';
        skip_space();
        if (take(end)) return value;
        do {
            if (object) {
                skip_space();
                if (peek() != '"') fail("a key is missing");
                value.keys.push_back(read_string());
                skip_space();
                if (!take(':')) fail("a colon is missing");
            }
            value.items.push_back(read(depth + 1));
            skip_space();
        } while (take(','));
        if (!take(end)) fail(std::string("a ") + end + " is missing");
        return value;
    }

    void read_number(Value& value) {
        const std::size_t start = at_;
        take('-');
        const std::size_t first = at_;
        skip_digits();
        if (at_ == first || (text_[first] == '0' && at_ - first > 1)) fail("a value is missing");
        value.whole = true;
        if (take('.')) {
            value.whole = false;
            skip_digits();
        }
        if (take('e') || take('E')) {
            value.whole = false;
            if (!take('+')) take('-');
            skip_digits();
        }
        if (text_[at_ - 1] < '0' || text_[at_ - 1] > '9') fail("a number is cut short");
        std::istringstream digits(text_.substr(start, at_ - start));
        digits.imbue(std::locale::classic());  // a point is a point, whatever the program's locale says
        value.kind = Value::Kind::number;
        digits >> value.number;
    }

    void skip_digits() {
        while (peek() >= '0' && peek() <= '9') ++at_;
    }

    std::string read_string() {
        std::string text;
        ++at_;  // the opening quote
        while (!take('"')) {
            if (at_ >= text_.size() || static_cast<unsigned char>(peek()) < 0x20) fail("a string is not closed");
            if (take('\\')) {
                read_escape(text);
            } else {
                text += text_[at_++];
            }
        }
        return text;
    }

    void read_escape(std::string& text) {
        static constexpr char names[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
        const char name = peek();
        ++at_;
        if (name == 'u') {
            append_utf8(text, read_code_point());
            return;
        }
        for (std::size_t i = 0; i + 1 < sizeof names; ++i) {
            if (names[i] == name) {
                text += meanings[i];
                return;
            }
        }
        fail("an unknown escape");
    }

    std::uint32_t read_code_point() {
        const std::uint32_t unit = read_hex();
        if (unit < 0xD800 || unit > 0xDFFF) return unit;
        if (unit > 0xDBFF || !take('\\') || !take('u')) fail("half a surrogate pair");
        const std::uint32_t second = read_hex();
        if (second < 0xDC00 || second > 0xDFFF) fail("half a surrogate pair");
        return 0x10000 + ((unit - 0xD800) << 10) + (second - 0xDC00);
    }

    std::uint32_t read_hex() {
        std::uint32_t number = 0;
        for (int i = 0; i < 4; ++i) {
            const auto digit = std::string("0123456789abcdef").find(static_cast<char>(peek() | 0x20));
            if (digit == std::string::npos) fail("an escape is cut short");
            number = number * 16 + static_cast<std::uint32_t>(digit);
            ++at_;
        }
        return number;
    }

    static void append_utf8(std::string& text, std::uint32_t point) {
        const auto put = [&text](std::uint32_t byte) { text += static_cast<char>(byte); };
        if (point < 0x80) {
            put(point);
        } else if (point < 0x800) {
            put(0xC0 | point >> 6);
            put(0x80 | (point & 0x3F));
        } else if (point < 0x10000) {
            put(0xE0 | point >> 12);
            put(0x80 | (point >> 6 & 0x3F));
            put(0x80 | (point & 0x3F));
        } else {
            put(0xF0 | point >> 18);
            put(0x80 | (point >> 12 & 0x3F));
            put(0x80 | (point >> 6 & 0x3F));
            put(0x80 | (point & 0x3F));
        }
    }

    const std::string& text_;
    std::size_t at_ = 0;
};

/// Throws std::invalid_argument, which says where it is not JSON.
inline Value parse(const std::string& text) { return Reader(text).document(); }

}  // namespace nst::json
