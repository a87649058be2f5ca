"""The Lloyd-Max quantisers of the standard normal distribution with 2 to 256 levels, as integers.

A row gives the positive levels in units of 2⁻²⁰, rising; the negative ones mirror them. Each level is the mean of the
values that are nearer to it than to the others. Mean squared errors: 0.3634, 0.1175, 0.03455, 0.009501, 0.002505,
0.0006442, 0.0001635, 0.0000412. Source: Max, Quantizing for minimum distortion, 1960 (to five digits); here from
Newton's method on the centroid condition in float64, rounded once. The integers are part of the format.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_UNIT = 2.0**-20
_FEW = 31  # comparisons with so many borders are faster than a search
_POSITIVE = (
    (
        836643,
    ),
    (
        474774, 1583788,
    ),
    (
        257000, 792729, 1409191, 2256479,
    ),
    (
        134632, 406898, 688662, 988116, 1317254, 1696645, 2169522, 2865328,
    ),
    (
        69090, 207672, 347475, 489370, 634319, 783429, 938020, 1099729, 1270669, 1453683, 1652795,
        1874050, 2127276, 2430326, 2821843, 3419126,
    ),
    (
        35032, 105149, 175424, 245961, 316872, 388269, 460272, 533006, 606604, 681213, 756990,
        834108, 912761, 993164, 1075563, 1160237, 1247512, 1337767, 1431454, 1529114, 1631407,
        1739157, 1853402, 1975493, 2107230, 2251094, 2410657, 2591351, 2802082, 3059123, 3397845,
        3925975,
    ),
    (
        17646, 52944, 88261, 123613, 159011, 194470, 230003, 265624, 301348, 337188, 373161, 409280,
        445563, 482023, 518680, 555548, 592647, 629995, 667612, 705517, 743732, 782279, 821181,
        860465, 900154, 940279, 980868, 1021953, 1063567, 1105748, 1148533, 1191966, 1236091,
        1280959, 1326622, 1373139, 1420575, 1469001, 1518494, 1569142, 1621040, 1674296, 1729033,
        1785386, 1843513, 1903593, 1965831, 2030467, 2097783, 2168111, 2241849, 2319479, 2401595,
        2488936, 2582445, 2683348, 2793287, 2914532, 3050357, 3205755, 3388928, 3614893, 3916365,
        4393213,
    ),
    (
        8856, 26570, 44287, 62007, 79734, 97468, 115211, 132965, 150732, 168514, 186312, 204127,
        221962, 239819, 257699, 275604, 293535, 311496, 329487, 347510, 365568, 383661, 401793,
        419965, 438180, 456438, 474743, 493096, 511499, 529955, 548466, 567035, 585662, 604352,
        623105, 641926, 660815, 679777, 698812, 717925, 737118, 756393, 775754, 795203, 814744,
        834380, 854114, 873949, 893889, 913938, 934098, 954374, 974770, 995289, 1015937, 1036716,
        1057632, 1078689, 1099892, 1121247, 1142757, 1164429, 1186268, 1208280, 1230471, 1252847,
        1275414, 1298181, 1321153, 1344339, 1367746, 1391382, 1415256, 1439378, 1463756, 1488400,
        1513322, 1538532, 1564042, 1589865, 1616013, 1642500, 1669341, 1696552, 1724149, 1752150,
        1780574, 1809441, 1838772, 1868591, 1898922, 1929792, 1961230, 1993268, 2025937, 2059276,
        2093323, 2128122, 2163721, 2200171, 2237529, 2275859, 2315230, 2355720, 2397416, 2440416,
        2484829, 2530779, 2578409, 2627881, 2679384, 2733136, 2789395, 2848465, 2910711, 2976578,
        3046609, 3121487, 3202081, 3289522, 3385328, 3491599, 3611371, 3749276, 3912936, 4116330,
        4389964, 4827157,
    ),
)  # fmt: skip


def levels(bits: int) -> npt.NDArray[np.float32]:
    """The 2^bits levels, rising; exact in float32.

    >>> levels(1).round(4).tolist() == [-0.7979000210762024, 0.7979000210762024]
    True
    """
    positive = np.array(_POSITIVE[bits - 1], np.float32) * np.float32(_UNIT)
    return np.concatenate([-positive[::-1], positive])


def nearest(values: npt.NDArray[np.float32], table: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """The number of the level of a rising `table` that is nearest to each value, the lower of two.

    >>> nearest(np.array([-9.0, 0.0, 0.1], np.float32), levels(1)).tolist()
    [0, 0, 1]
    """
    between = (table[1:] + table[:-1]) / np.float32(2)
    if between.size > _FEW:
        return np.searchsorted(between, values).astype(np.uint8)
    codes = np.zeros(values.shape, np.uint8)
    for border in between:
        codes += values > border
    return codes
