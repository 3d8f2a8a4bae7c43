// A log of a burn-in, a line of JSON a round: what is counted of each round, as columns. Texts are stepped over.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace py = pybind11;

namespace kparity {
namespace {

using Words = std::vector<std::string>;

constexpr double MISSING = std::numeric_limits<double>::quiet_NaN();
constexpr int DEEPEST = 64;
constexpr std::size_t PIECE = 1 << 19;  // bytes, which stay in a cache

// One line. Every function steps over what it reads, and says whether that was there; a string is left as it is spelt.
class Line {
public:
    Line(const char* begin, const char* end) : at_(begin), end_(end) {}

    bool token(char wanted) {
        if (next() != wanted) return false;
        ++at_;
        return true;
    }

    bool over() { return next() == OVER; }

    bool text(std::string_view& found) {
        if (!token('"')) return false;
        const char* begin = at_;
        while (const auto* quote = static_cast<const char*>(std::memchr(at_, '"', end_ - at_))) {
            const char* slash = quote;
            while (slash > begin && slash[-1] == '\\') --slash;
            at_ = quote + 1;
            if ((quote - slash) % 2) continue;  // an escaped one
            found = {begin, static_cast<std::size_t>(quote - begin)};
            return true;
        }
        return false;
    }

    // Exact as strtod: up to 2^53 and 10^22 both factors are, and so is what they give, rounded once.
    bool number(double& found) {
        static constexpr double TENS[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                          1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
        const bool negative = token('-');
        if (at_ == end_ || *at_ < '0' || *at_ > '9') return false;
        const char* begin = at_;
        std::uint64_t value = 0;
        int count = 0, scale = 0;
        for (bool behind = false; at_ < end_ && ((*at_ >= '0' && *at_ <= '9') || (*at_ == '.' && !behind)); ++at_) {
            if (*at_ == '.') {
                behind = true;
                continue;
            }
            value = value * 10 + (*at_ - '0');
            count += value > 0;
            scale += behind;
        }
        const bool spelt = at_ < end_ && (*at_ == 'e' || *at_ == 'E');
        if (!spelt && count <= 19 && value <= (1ULL << 53) && scale <= 22) {
            found = static_cast<double>(value) / TENS[scale];
        } else {
            at_ = begin;
            digits();
            const std::string copy(begin, at_);
            char* stopped = nullptr;
            found = std::strtod(copy.c_str(), &stopped);
            if (*stopped) return false;
        }
        if (negative) found = -found;
        return true;
    }

    bool null() { return word("null"); }

    // A number that nobody wants.
    bool digits() {
        const char* begin = at_;
        while (at_ < end_ && ((*at_ >= '0' && *at_ <= '9') || *at_ == '.' || *at_ == '-' || *at_ == '+' ||
                              (*at_ | 32) == 'e'))
            ++at_;
        return at_ > begin;
    }

    bool skip(int depth = 0) {
        std::string_view text_;
        if (depth > DEEPEST) return false;
        switch (next()) {
            case '"': return text(text_);
            case '[': return list('[', ']', [&] { return skip(depth + 1); });
            case '{': return object([&](std::string_view) { return skip(depth + 1); });
            case 't': return word("true");
            case 'f': return word("false");
            case 'n': return null();
            default: return digits();
        }
    }

    template <typename Member>
    bool object(Member member) {
        std::string_view key;
        return list('{', '}', [&] { return text(key) && token(':') && member(key); });
    }

private:
    static constexpr int OVER = -1;

    int next() {
        while (at_ < end_ && (*at_ == ' ' || *at_ == '\t' || *at_ == '\r')) ++at_;
        return at_ < end_ ? static_cast<unsigned char>(*at_) : OVER;
    }

    template <typename Item>
    bool list(char open, char close, Item item) {
        if (!token(open)) return false;
        if (token(close)) return true;
        do {
            if (!item()) return false;
        } while (token(','));
        return token(close);
    }

    bool word(std::string_view wanted) {
        next();
        if (std::string_view(at_, end_ - at_).substr(0, wanted.size()) != wanted) return false;
        at_ += wanted.size();
        return true;
    }

    const char *at_, *end_;
};

bool digits(std::string_view text, std::size_t begin, std::size_t count, std::int64_t& found) {
    found = 0;
    for (std::size_t at = begin; at < begin + count; ++at) {
        if (at >= text.size() || text[at] < '0' || text[at] > '9') return false;
        found = found * 10 + (text[at] - '0');
    }
    return true;
}

// Microseconds since 1970 of 2026-04-19T00:00:00[.000000](Z|±00:00).
bool moment(std::string_view text, std::int64_t& found) {
    std::int64_t year, month, day, hour, minute, second, micros = 0, ahead = 0, ahead_minutes = 0;
    if (text.size() < 20 || text[4] != '-' || text[7] != '-' || text[10] != 'T' || text[13] != ':' || text[16] != ':')
        return false;
    if (!digits(text, 0, 4, year) || !digits(text, 5, 2, month) || !digits(text, 8, 2, day) ||
        !digits(text, 11, 2, hour) || !digits(text, 14, 2, minute) || !digits(text, 17, 2, second))
        return false;
    if (month < 1 || month > 12 || day < 1 || day > 31 || hour > 23 || minute > 59 || second > 60) return false;
    std::size_t at = 19;
    if (text[at] == '.') {
        std::int64_t unit = 1000000;
        for (++at; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at)
            micros += (text[at] - '0') * (unit /= 10);
    }
    const std::string_view zone = text.substr(at);
    if (zone.size() == 6 && (zone[0] == '+' || zone[0] == '-') && zone[3] == ':') {
        if (!digits(zone, 1, 2, ahead) || !digits(zone, 4, 2, ahead_minutes)) return false;
        ahead = (ahead * 60 + ahead_minutes) * (zone[0] == '-' ? -60 : 60);
    } else if (zone != "Z") {
        return false;
    }
    // Days from the civil calendar, of years that begin in March.
    const std::int64_t shifted = year - (month <= 2), era = (shifted >= 0 ? shifted : shifted - 399) / 400;
    const std::int64_t of_era = shifted - era * 400, of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    const std::int64_t days = era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
    found = ((days * 24 + hour) * 60 + minute) * 60 + second - ahead;
    found = found * 1000000 + micros;
    return true;
}

struct Side {
    double ms = MISSING, bytes = 0;
    std::uint8_t fault = 0;
};

// What is counted of a round; a missing margin is NaN. `digest` and `kind` stand for their texts in this process alone.
struct Round {
    double elapsed;
    std::int64_t time;
    std::uint64_t digest;
    float v1_ms, v2_ms, margin, noise;
    std::int32_t round, prefix;
    std::uint32_t kind;
    std::uint8_t mode, bucket, v1_fault, v2_fault, jumped, empty;
};

// What the columns need of a row must be there: one bit of `there` each.
enum : unsigned { ROUND = 1, TIME = 2, ELAPSED = 4, DIGEST = 8, KIND = 16, MODE = 32, BUCKET = 64, PREFIX = 128,
                  FIRST = 256, SECOND = 512, ALL = 1023 };

struct Known {
    Words modes, buckets, faults;
};

template <std::size_t N>
bool is(std::string_view key, const char (&word)[N]) {
    return key.size() == N - 1 && !std::memcmp(key.data(), word, N - 1);
}

bool named(Line& line, const Words& words, std::uint8_t& found) {
    std::string_view word;
    if (!line.text(word)) return false;
    const auto at = std::find(words.begin(), words.end(), word);
    found = static_cast<std::uint8_t>(at - words.begin());
    return at != words.end();
}

bool hashed(Line& line, std::uint64_t& found) {
    std::string_view text;
    if (!line.text(text)) return false;
    found = std::hash<std::string_view>{}(text);
    return true;
}

bool whole(Line& line, std::int32_t& found) {
    double value;
    if (!line.number(value) || std::abs(value) > 2147483647.0) return false;
    found = static_cast<std::int32_t>(value);
    return found == value;
}

bool optional(Line& line, float& found) {
    double value = MISSING;
    if (!line.null() && !line.number(value)) return false;
    found = static_cast<float>(value);
    return true;
}

bool side(Line& line, const Known& known, Side& found) {
    const bool good = line.object([&](std::string_view key) {
        if (is(key, "ms")) return line.number(found.ms);
        if (is(key, "bytes")) return line.number(found.bytes);
        if (is(key, "fault")) return named(line, known.faults, found.fault);
        return line.skip();
    });
    return good && !std::isnan(found.ms);
}

bool round_of(Line line, const Known& known, Round& found) {
    unsigned there = 0;
    double clock = 0;
    std::uint64_t kind = 0;
    std::string_view time;
    Side v1, v2;
    found.margin = found.noise = static_cast<float>(MISSING);
    const auto needed = [&](unsigned what, bool good) {
        there |= what;
        return good;
    };
    const bool good = line.object([&](std::string_view key) {
        if (is(key, "round")) return needed(ROUND, whole(line, found.round));
        if (is(key, "time")) return needed(TIME, line.text(time) && moment(time, found.time));
        if (is(key, "elapsed")) return needed(ELAPSED, line.number(found.elapsed));
        if (is(key, "digest")) return needed(DIGEST, hashed(line, found.digest));
        if (is(key, "kind")) return needed(KIND, hashed(line, kind));
        if (is(key, "mode")) return needed(MODE, named(line, known.modes, found.mode));
        if (is(key, "bucket")) return needed(BUCKET, named(line, known.buckets, found.bucket));
        if (is(key, "prefix")) return needed(PREFIX, whole(line, found.prefix));
        if (is(key, "v1")) return needed(FIRST, side(line, known, v1));
        if (is(key, "v2")) return needed(SECOND, side(line, known, v2));
        if (is(key, "margin")) return optional(line, found.margin);
        if (is(key, "noise")) return optional(line, found.noise);
        if (is(key, "clock")) return line.number(clock);
        return line.skip();
    });
    found.kind = static_cast<std::uint32_t>(kind);
    found.jumped = clock != 0;
    found.empty = v1.bytes == 0 && v2.bytes == 0;
    found.v1_ms = static_cast<float>(v1.ms), found.v2_ms = static_cast<float>(v2.ms);
    found.v1_fault = v1.fault, found.v2_fault = v2.fault;
    return good && there == ALL && line.over();
}

// The lines of a file from a byte on, one after the other, through a buffer that is used again.
class Lines {
public:
    Lines(int file, std::int64_t begin) : file_(file), offset_(begin), data_(PIECE) {}

    // Where the next line begins in the file, and the line without its end; false where the file is over.
    bool next(std::int64_t& begin, const char*& line, const char*& ended) {
        std::size_t seen = at_;
        while (!(ended = find(seen))) {
            seen = stop_;
            if (!more(seen)) {
                ended = &data_[0] + stop_;
                break;
            }
        }
        begin = offset_ + static_cast<std::int64_t>(at_);
        line = &data_[0] + at_;
        at_ = std::min(static_cast<std::size_t>(ended - &data_[0]) + 1, stop_);
        return line < ended || at_ > static_cast<std::size_t>(line - &data_[0]);
    }

private:
    const char* find(std::size_t from) const {
        return static_cast<const char*>(std::memchr(&data_[0] + from, '\n', stop_ - from));
    }

    // Read on behind what is there of the line, which moves to the front; `seen` moves along.
    bool more(std::size_t& seen) {
        std::memmove(&data_[0], &data_[at_], stop_ - at_);
        offset_ += static_cast<std::int64_t>(at_), seen -= at_, stop_ -= at_, at_ = 0;
        if (stop_ == data_.size()) data_.resize(2 * stop_);
        ssize_t got;
        do got = pread(file_, &data_[stop_], data_.size() - stop_, offset_ + static_cast<std::int64_t>(stop_));
        while (got < 0 && errno == EINTR);
        if (got < 0) throw std::runtime_error(std::strerror(errno));
        stop_ += static_cast<std::size_t>(got);
        return got > 0;
    }

    const int file_;
    std::int64_t offset_;
    std::vector<char> data_;
    std::size_t at_ = 0, stop_ = 0;
};

// The rounds whose lines begin in [begin, end) of a file, and how many such lines are none.
std::pair<py::array_t<Round>, std::int64_t> rounds(int file, std::int64_t begin, std::int64_t end, const Known& known) {
    std::vector<Round> found;
    std::int64_t bad = 0, place;
    {
        py::gil_scoped_release free;
        Lines lines(file, begin ? begin - 1 : 0);
        const char *line, *ended;
        bool there = !begin || lines.next(place, line, ended);  // a line that began before is not of these
        while (there && lines.next(place, line, ended) && place < end) {
            found.emplace_back();
            if (round_of(Line(line, ended), known, found.back())) continue;
            found.pop_back();
            ++bad;
        }
    }
    return {py::array_t<Round>(static_cast<py::ssize_t>(found.size()), found.data()), bad};
}

}  // namespace

void bind_rounds(py::module_& m) {
    PYBIND11_NUMPY_DTYPE(Round, elapsed, time, digest, v1_ms, v2_ms, margin, noise, round, prefix, kind, mode, bucket,
                         v1_fault, v2_fault, jumped, empty);
    m.def(
        "burnin_rounds",
        [](int file, std::int64_t begin, std::int64_t end, const Words& modes, const Words& buckets,
           const Words& faults) { return rounds(file, begin, end, Known{modes, buckets, faults}); },
        py::arg("file"), py::arg("begin"), py::arg("end"), py::arg("modes"), py::arg("buckets"), py::arg("faults"),
        "What is counted of the rounds whose lines begin in [begin, end) of an open file, and how many such lines are "
        "none.");
}

}  // namespace kparity
