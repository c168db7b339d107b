//! OCI and Docker images: their JSON, their layers as tar, their archives, their registries. Knows
//! no Dockerfile and no build.
