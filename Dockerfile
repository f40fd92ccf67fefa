# A static binary on nothing: no shell, no libc, no package manager.
# deploy/README.md says how to run it, and what which feature needs.
#
# The builder is any image with bash, make, and the Go that go.mod asks for.
ARG BUILDER=docker.io/library/golang:1.26

FROM --platform=$BUILDPLATFORM ${BUILDER} AS build
WORKDIR /src
# What `go` and the Makefile take from the environment; unset, each has its own
# default.
ARG GOPROXY
ARG GOFLAGS
ENV GOTOOLCHAIN=local
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION
ARG REVISION
ARG BRANCH
ARG BUILD_DATE
ARG TARGETARCH
ARG TARGETVARIANT
RUN GOARCH=$TARGETARCH GOARM=${TARGETVARIANT#v} make build

FROM scratch
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="sockstate_exporter" \
      org.opencontainers.image.description="Prometheus exporter for socket state on Linux" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /src/sockstate_exporter /sockstate_exporter
COPY --from=build /src/LICENSE /LICENSE
# nobody. What needs no capability works; capabilities are for --user 0, since
# no container engine hands ambient ones to another user.
USER 65534:65534
EXPOSE 10048
ENTRYPOINT ["/sockstate_exporter"]
