// SPDX-License-Identifier: MIT OR Apache-2.0
// iscsiload URL rw BS QD SECS [MAXMIB] : libiscsi load, one session. rw = randread|randwrite|read|write
// Build: cc -O2 -o iscsiload iscsiload.c -liscsi
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <stdint.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>
#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>
static double now(void){struct timespec t;clock_gettime(CLOCK_MONOTONIC,&t);return t.tv_sec+t.tv_nsec*1e-9;}
static struct iscsi_context*I;static int lun,wr,rnd,bs,blk,inflight,stop,errs;static uint64_t nblk,pos,done;static unsigned char*buf;
static float*L;static uint64_t nl;static uint64_t x=88172645463325252ull;
static uint64_t rn(void){x^=x<<13;x^=x>>7;x^=x<<17;return x;}
typedef struct{double t;unsigned char*b;}op;
static void sub(op*o);
static void cb(struct iscsi_context*i,int st,void*d,void*pv){struct scsi_task*t=d;op*o=pv;inflight--;
  if(st!=SCSI_STATUS_GOOD){errs++;if(errs<4)fprintf(stderr,"io status %d: %s\n",st,iscsi_get_error(i));}
  else{done++;if(nl<20000000)L[nl++]=now()-o->t;}
  scsi_free_scsi_task(t);if(!stop&&errs<100)sub(o);}
static void sub(op*o){uint64_t slots=nblk/(bs/blk),s=rnd?rn()%slots:pos++%slots;uint64_t lba=s*(bs/blk);o->t=now();
  struct scsi_task*t=wr?iscsi_write16_task(I,lun,lba,o->b,bs,blk,0,0,0,0,0,cb,o):iscsi_read16_task(I,lun,lba,bs,blk,0,0,0,0,0,cb,o);
  if(!t){errs+=100;return;}
  if(!wr){scsi_task_add_data_in_buffer(t,bs,o->b);}inflight++;}
static int cmp(const void*a,const void*b){float p=*(float*)a,q=*(float*)b;return p<q?-1:p>q;}
int main(int c,char**v){if(c<6)return 2;I=iscsi_create_context("iqn.2024-01.bench:iscsiload");struct iscsi_url*u=iscsi_parse_full_url(I,v[1]);if(!u){fprintf(stderr,"%s\n",iscsi_get_error(I));return 1;}
  iscsi_set_session_type(I,ISCSI_SESSION_NORMAL);iscsi_set_targetname(I,u->target);iscsi_set_header_digest(I,ISCSI_HEADER_DIGEST_NONE);lun=u->lun;if(u->user[0])iscsi_set_initiator_username_pwd(I,u->user,u->passwd);
  if(iscsi_full_connect_sync(I,u->portal,lun)){fprintf(stderr,"connect: %s\n",iscsi_get_error(I));return 1;}
  rnd=!strncmp(v[2],"rand",4);wr=strstr(v[2],"write")!=0;bs=atoi(v[3]);int qd=atoi(v[4]);double secs=atof(v[5]);
  struct scsi_task*t=iscsi_readcapacity16_sync(I,lun);struct scsi_readcapacity16*rc;if(!t||t->status||!(rc=scsi_datain_unmarshall(t))){fprintf(stderr,"readcapacity: %s\n",iscsi_get_error(I));return 1;}
  blk=rc->block_length;nblk=rc->returned_lba+1;if(c>6&&nblk>(uint64_t)atoi(v[6])*1048576/blk)nblk=(uint64_t)atoi(v[6])*1048576/blk;scsi_free_scsi_task(t);
  L=malloc(sizeof(float)*20000000ul);op*o=calloc(qd,sizeof*o);double a=now();for(int i=0;i<qd;i++){o[i].b=malloc(bs);memset(o[i].b,i+1,bs);sub(&o[i]);}
  while(inflight){struct pollfd p={.fd=iscsi_get_fd(I),.events=iscsi_which_events(I)};if(poll(&p,1,1000)<0)break;if(p.revents&&iscsi_service(I,p.revents)<0){fprintf(stderr,"service: %s\n",iscsi_get_error(I));return 1;}
    double n=now();if(n-a>secs)stop=1;if(n-a>secs+20){fprintf(stderr,"hung\n");return 1;}}
  double d=now()-a;if(wr){t=iscsi_synchronizecache10_sync(I,lun,0,0,0,0);if(t)scsi_free_scsi_task(t);}double e=now()-a;
  qsort(L,nl,sizeof*L,cmp);printf("{\"iops\":%.0f,\"MBps\":%.1f,\"p50_us\":%.1f,\"p99_us\":%.1f,\"ios\":%lu,\"errors\":%d,\"flush_ms\":%.1f}\n",done/d,done/d*bs/1e6,nl?L[nl/2]*1e6:0,nl?L[nl*99/100]*1e6:0,(unsigned long)done,errs,(e-d)*1e3);
  iscsi_logout_sync(I);iscsi_destroy_context(I);return errs!=0;}
