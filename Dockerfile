# The relay in a container: the binary and the system's root certificates, no shell, no root.
#
#   docker build -t posthaste .
#   docker run -e DATABASE_URL=postgres://… posthaste

# The images that it is built from. A tag may be another image tomorrow: a release names them by digest,
#
#   docker build --build-arg BUILD_IMAGE=rust:1.95-slim-bookworm@sha256:… \
#                --build-arg BASE_IMAGE=gcr.io/distroless/cc-debian12:nonroot@sha256:… -t posthaste .
#
# which `docker buildx imagetools inspect IMAGE` prints. Take new ones when the base has had a security
# update, and with each release.
ARG BUILD_IMAGE=rust:1.95-slim-bookworm
ARG BASE_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
# ring compiles C and assembly; the image brings cc, but be explicit.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin posthaste \
 && cp target/release/posthaste /posthaste

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="posthaste" \
      org.opencontainers.image.description="A Postgres-native outbox relay: insert a row in your transaction, and the webhook arrives" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /posthaste /usr/local/bin/posthaste
# Probes come from outside the container, so health and metrics listen beyond the loopback.
ENV POSTHASTE_HTTP__LISTEN=0.0.0.0:7878
EXPOSE 7878
# There is no curl here: the relay's own binary asks it. Not ready for 40 s, and the container is unhealthy.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=4 CMD ["/usr/local/bin/posthaste", "health"]
USER nonroot:nonroot
# SIGTERM lets requests in flight end; give it longer than `relay.grace` before SIGKILL.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/posthaste"]
CMD ["run"]
