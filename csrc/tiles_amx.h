// The products of tiles.h through AMX: eight tile registers, of which four hold sums.
#pragma once

constexpr std::int64_t TILED_FROM = 3;  // tokens

// The shapes of a thread's tile registers while it multiplies: 16 rows of 64 bytes in each.
class TileUnit {
public:
    TileUnit() {
        struct {
            std::uint8_t palette, start, reserved[14];
            std::uint16_t row_bytes[16];
            std::uint8_t rows[16];
        } shapes = {};
        shapes.palette = 1;
        for (int i = 0; i < 8; ++i) shapes.row_bytes[i] = STEP, shapes.rows[i] = TILE;
        _tile_loadconfig(&shapes);
    }
    ~TileUnit() { _tile_release(); }
    TileUnit(const TileUnit&) = delete;
    TileUnit& operator=(const TileUnit&) = delete;
};

template <int T>
inline void tile_products(const std::uint8_t* codes, std::int64_t code_stride, const std::int8_t* values,
                          std::int64_t value_stride, std::int64_t steps, bool more, Sums* sums) {
    static_assert(PAIR == 2 && T <= 2, "four tile registers hold sums");
    if (more) {
        _tile_loadd(0, sums[0].at, STEP);
        _tile_loadd(1, sums[1].at, STEP);
        if (T == 2) {
            _tile_loadd(2, sums[PAIR].at, STEP);
            _tile_loadd(3, sums[PAIR + 1].at, STEP);
        }
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (std::int64_t step = 0; step < steps; ++step) {
        _tile_loadd(4, codes + step * TILE_BYTES, STEP);
        _tile_loadd(6, values + step * TILE_BYTES, STEP);
        _tile_dpbusd(0, 4, 6);
        _tile_loadd(5, codes + code_stride + step * TILE_BYTES, STEP);
        _tile_dpbusd(1, 5, 6);
        if (T == 2) {
            _tile_loadd(7, values + value_stride + step * TILE_BYTES, STEP);
            _tile_dpbusd(2, 4, 7);
            _tile_dpbusd(3, 5, 7);
        }
    }
    _tile_stored(0, sums[0].at, STEP);
    _tile_stored(1, sums[1].at, STEP);
    if (T == 2) {
        _tile_stored(2, sums[PAIR].at, STEP);
        _tile_stored(3, sums[PAIR + 1].at, STEP);
    }
}
