// The kernels of a tier as one table. Included in <tier>.cpp inside its namespace, behind the tier's lanes.

extern const CodeKernels kCodes;
constinit const CodeKernels kCodes{
    kCoarseQuery,
    kCoarseWeight,
    {score_codes<1>, score_codes<2>, score_codes<3>, score_codes<4>, score_codes<5>, score_codes<6>, score_codes<7>,
     score_codes<8>},
    {mix_codes<1>, mix_codes<2>, mix_codes<3>, mix_codes<4>, mix_codes<5>, mix_codes<6>, mix_codes<7>, mix_codes<8>},
};
