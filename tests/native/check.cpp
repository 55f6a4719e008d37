// The core without Python: reads a manifest and a file of packed tensors (see manifest.py), runs
// the tokens on every target that this machine supports, and prints "sha256 <hex> <target>" of the
// float32 logits of all rows, and "scores <hex> <target>" of how likely each next token is.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "dispatch.h"
#include "gpt2.h"
#include "sha256.h"

namespace {

using namespace gpt2fast;  // NOLINT

struct Manifest {
  std::map<std::string, std::string> config;
  std::map<std::string, std::pair<size_t, size_t>> tensors;  // offset, bytes
  std::vector<int32_t> tokens;
  std::string dtype, cache;
  int threads = 1, chunk = 0;

  explicit Manifest(const char* path) {
    std::ifstream file(path);
    if (!file) throw std::runtime_error(std::string("cannot open ") + path);
    for (std::string line; std::getline(file, line);) {
      std::istringstream words(line);
      std::string kind, name;
      words >> kind;
      if (kind == "config") {
        words >> name;
        words >> config[name];
      } else if (kind == "dtype") {
        words >> dtype;
      } else if (kind == "cache") {
        words >> cache;
      } else if (kind == "threads") {
        words >> threads;
      } else if (kind == "chunk") {
        words >> chunk;
      } else if (kind == "tensor") {
        words >> name;
        auto& [offset, bytes] = tensors[name];
        words >> offset >> bytes;
      } else if (kind == "tokens") {
        size_t n = 0;
        words >> n;
        tokens.resize(n);
        for (int32_t& token : tokens) words >> token;
      } else {
        throw std::runtime_error("unknown line: " + line);
      }
      if (!words) throw std::runtime_error("broken line: " + line);
    }
  }

  int number(const char* key) const { return std::stoi(config.at(key)); }

  Config model_config() const {
    Config c;
    c.n_layer = number("n_layer");
    c.n_head = number("n_head");
    c.n_embd = number("n_embd");
    c.n_ctx = number("n_ctx");
    c.n_vocab = number("n_vocab");
    c.n_inner = number("n_inner");
    c.activation = parse_activation(config.at("activation"));
    // As Python does it: the decimal to a double, the double to a float.
    c.layer_norm_epsilon = static_cast<float>(std::stod(config.at("layer_norm_epsilon")));
    c.scale_attn_weights = number("scale_attn_weights");
    c.scale_attn_by_inverse_layer_idx = number("scale_attn_by_inverse_layer_idx");
    c.tie_word_embeddings = number("tie_word_embeddings");
    return c;
  }
};

std::vector<uint64_t> read_aligned(const char* path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) throw std::runtime_error(std::string("cannot open ") + path);
  const auto size = static_cast<size_t>(file.tellg());
  std::vector<uint64_t> data((size + 7) / 8);
  file.seekg(0);
  file.read(reinterpret_cast<char*>(data.data()), static_cast<std::streamsize>(size));
  return data;
}

// The hash of all logits, or of the scores of all tokens' successors, the last one's being the
// first token.
std::string run(const Manifest& m, const Model& model, bool score) {
  KvCache cache = model.new_cache(m.cache == "float16");
  const auto n = static_cast<int32_t>(m.tokens.size());
  std::vector<float> logits(m.tokens.size() * static_cast<size_t>(model.config.n_vocab));
  const gpt2fast_span span{
      reinterpret_cast<gpt2fast_cache*>(&cache), m.tokens.data(), n, n, logits.data(), nullptr};
  gpt2fast_control control{};
  control.threads = control.prompt_threads = m.threads;
  control.chunk = m.chunk;
  std::vector<int32_t> targets(m.tokens.begin() + 1, m.tokens.end());
  targets.push_back(m.tokens[0]);
  std::vector<TokenScore> scores(m.tokens.size());
  const RowScores rows{targets.data(), scores.data()};
  const gpt2fast_status status =
      forward(model, &span, 1, control, nullptr, score ? &rows : nullptr);
  if (status != GPT2FAST_OK)
    throw std::runtime_error("forward() gave status " + std::to_string(status));
  if (score)
    return sha256(reinterpret_cast<const uint8_t*>(scores.data()),
                  scores.size() * sizeof(TokenScore));
  return sha256(reinterpret_cast<const uint8_t*>(logits.data()), logits.size() * sizeof(float));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: check MANIFEST TENSORS\n");
    return 2;
  }
  try {
    const Manifest manifest(argv[1]);
    const std::vector<uint64_t> data = read_aligned(argv[2]);
    const Model model(manifest.model_config(), parse_dtype(manifest.dtype),
                      [&](const std::string& name, size_t bytes) {
                        const auto found = manifest.tensors.find(name);
                        if (found == manifest.tensors.end() || found->second.second < bytes)
                          throw std::runtime_error("no tensor " + name);
                        return reinterpret_cast<const uint8_t*>(data.data()) + found->second.first;
                      });
    for (const TargetState& target : targets()) {
      if (!target.missing.empty()) continue;
      force_target(target.name);
      for (const bool score : {false, true})
        std::cout << (score ? "scores " : "sha256 ") << run(manifest, model, score) << " "
                  << active().name << std::endl;
    }
  } catch (const std::exception& e) {
    std::fprintf(stderr, "check: %s\n", e.what());
    return 1;
  }
  return 0;
}
