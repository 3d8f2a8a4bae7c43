// Runs the kernels of one instruction set without Python: what an emulated processor can start.
//
// stdin, as often as there are launches: a line "isa op threads defines buffers", a line "name value" for each define,
// one with the bytes of each buffer, and then the buffers. stdout: a line "ok" and the buffers as the launch left them,
// or a line that says what is wrong. The shares of the threads run one after the other.
#include <cstdlib>
#include <exception>
#include <iostream>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "../csrc/kernel.h"

namespace {

class Given final : public kparity::Defines {
public:
    std::map<std::string, double> values;
    double number(const char* name) const override {
        const auto at = values.find(name);
        if (at == values.end()) throw std::invalid_argument(std::string("the define ") + name + " is missing");
        return at->second;
    }
};

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<void, Free>;

Memory aligned(std::size_t bytes) { return Memory(std::aligned_alloc(64, (bytes / 64 + 1) * 64)); }

void launch(const std::string& name, std::istream& in, std::ostream& out) {
    std::string op;
    int threads = 0, defines = 0, buffers = 0;
    in >> op >> threads >> defines >> buffers;
    Given given;
    for (int i = 0; i < defines; ++i) {
        std::string key;
        double value = 0;
        in >> key >> value;
        given.values[key] = value;
    }
    std::vector<std::size_t> bytes(static_cast<std::size_t>(buffers));
    for (auto& each : bytes) in >> each;
    in.get();  // the end of the line
    std::vector<Memory> memory;
    std::vector<void*> args;
    for (const std::size_t each : bytes) {
        memory.push_back(aligned(each));
        args.push_back(memory.back().get());
        in.read(static_cast<char*>(args.back()), static_cast<std::streamsize>(each));
    }
    const kparity::Isa& isa = name == "scalar" ? kparity::isa_scalar : kparity::isa_neon;
    const std::unique_ptr<kparity::Kernel> kernel(isa.make(op.c_str(), given));
    if (!kernel) throw std::invalid_argument("no kernel " + op);
    for (int thread = 0; thread < threads; ++thread) {
        const Memory scratch = aligned(kernel->scratch_bytes());
        kernel->run(args.data(), kparity::Slice{thread, threads, static_cast<std::uint8_t*>(scratch.get())});
    }
    out << "ok\n";
    for (std::size_t i = 0; i < bytes.size(); ++i)
        out.write(static_cast<const char*>(args[i]), static_cast<std::streamsize>(bytes[i]));
    out.flush();
}

}  // namespace

int main() {
    std::ios::sync_with_stdio(false);
    std::string isa;
    while (std::cin >> isa) {
        try {
            launch(isa, std::cin, std::cout);
        } catch (const std::exception& error) {
            std::cout << error.what() << std::endl;
        }
    }
}
