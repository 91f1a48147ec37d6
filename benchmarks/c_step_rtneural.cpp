// RTNeural's LSTM of one input for c_step.c; its sizes are compiled in.
#include <RTNeural/RTNeural.h>

#include <cstring>
#include <random>

template <int units>
static void run(const float *input, float *output, int samples)
{
    using Layer = RTNeural::LSTMLayerT<float, 1, units>;
    static Layer *layer = [] {
        std::mt19937 engine(0);
        std::uniform_real_distribution<float> draw(-0.3f, 0.3f);
        auto matrix = [&](int rows) {
            std::vector<std::vector<float>> values(rows, std::vector<float>(4 * units));
            for (auto &row : values)
                for (auto &value : row)
                    value = draw(engine);
            return values;
        };
        auto *made = new Layer;
        made->setWVals(matrix(1));
        made->setUVals(matrix(units));
        made->setBVals(matrix(1)[0]);
        made->reset();
        return made;
    }();
    for (int k = 0; k < samples; k++) {
#if RTNEURAL_USE_XSIMD
        xsimd::batch<float> ins[1] = {xsimd::batch<float>(input[k])};
        layer->forward(ins);
        std::memcpy(output + k * units, layer->outs, units * sizeof(float));
#else
        Eigen::Matrix<float, 1, 1> ins(input[k]);
        layer->forward(ins);
        std::memcpy(output + k * units, layer->outs.data(), units * sizeof(float));
#endif
    }
}

extern "C" void rtneural(int units, const float *input, float *output, int samples)
{
    switch (units) {
#define SIZE(n)                                                                                                        \
    case n:                                                                                                            \
        return run<n>(input, output, samples);
        SIZES
    }
}
