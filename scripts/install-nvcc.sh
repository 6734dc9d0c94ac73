#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Copyright 2026 The Ternflash Authors
#
# Installs nvcc and the static runtime of CUDA 13.0 on Ubuntu x64, from NVIDIA, without a driver: all that building the addon with CUDA takes.
set -euo pipefail
. /etc/os-release
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
curl -fsSL -o "$folder/keyring.deb" \
  "https://developer.download.nvidia.com/compute/cuda/repos/ubuntu${VERSION_ID/./}/x86_64/cuda-keyring_1.1-1_all.deb"
sudo dpkg -i "$folder/keyring.deb"
sudo apt-get update
sudo apt-get install -y --no-install-recommends cuda-nvcc-13-0 cuda-cudart-dev-13-0
