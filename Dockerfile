# The relay in a container: the binary and the system's root certificates, no shell, no root.
#
#   docker build -t posthaste .
#   docker run -e DATABASE_URL=postgres://… posthaste

FROM rust:1.95-slim-bookworm AS build
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

FROM gcr.io/distroless/cc-debian12:nonroot
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
