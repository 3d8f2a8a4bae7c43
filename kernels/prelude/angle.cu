/* Sine and cosine of an angle of up to 2^17 radians, within 2^-24 or so. The reduction is done here, and with FMA,
 * because what the dialects do to large arguments differs, and because it must not depend on a fast-math switch.
 *
 * angle = turns*(pi/2) + rest with pi/2 in three f32 parts (Cody & Waite): the first step is exact, since turns*part1
 * has a lowest bit of 2^-23 and the difference is below 1. The polynomials interpolate at the Chebyshev nodes of |rest|
 * <= pi/4; their own error is below 2^-26.
 */
INLINE void sine_cosine(float angle, float* sine, float* cosine)
{
    const float turns = RINT(angle * 0.6366197467f);
    float rest = FMA(-turns, 1.570796371f, angle);
    rest = FMA(-turns, -4.371138829e-08f, rest);
    rest = FMA(-turns, -1.71512451e-15f, rest);
    const float square = rest * rest;
    const float s = FMA(FMA(FMA(-0.0001958738721f, square, 0.008332746103f), square, -0.1666666418f), square * rest,
        rest);
    const float c = FMA(FMA(FMA(FMA(2.454743662e-05f, square, -0.001388830016f), square, 0.04166666418f), square,
        -0.5f), square, 1.0f);
    const i32 quadrant = (i32)turns & 3; /* two's complement: right for negative angles too */
    const float first = (quadrant & 1) ? c : s, second = (quadrant & 1) ? s : c;
    *sine = (quadrant & 2) ? -first : first;
    *cosine = ((quadrant + 1) & 2) ? -second : second;
}
